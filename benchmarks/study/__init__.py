"""The study of Zhuo et al. 2022, measured again: grids of cells, their rows, tables and figures."""

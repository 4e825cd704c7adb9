"""``python -m keras_lowbit``: see :mod:`keras_lowbit.cli`."""

from keras_lowbit.cli import run

if __name__ == "__main__":
    run()

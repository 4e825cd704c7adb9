"""``python -m keras_lowbit``: see :mod:`keras_lowbit.cli`."""

from absl import flags

from keras_lowbit import cli

if __name__ == "__main__":
    __doc__ = cli.__doc__  # with these flags, what --help prints
    flags.adopt_module_key_flags(cli)
    cli.run()

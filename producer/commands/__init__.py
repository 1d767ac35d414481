"""The commands of ``sortline``, one module a noun. Heavy imports stay inside functions: ``--help`` must be quick."""

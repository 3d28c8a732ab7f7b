"""Sources of stages that make a data set; see ``trimtab.core.maker``."""

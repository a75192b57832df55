"""A third party's plugin: notes beside the decisions, written from the plugin author's guide alone."""

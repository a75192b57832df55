"""A third party's plugin, written from the docs alone. The plugin is ``acme_plugin.plugin``."""

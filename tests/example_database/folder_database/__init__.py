"""A third party's database and entry store: both keep everything as whole files in one folder."""

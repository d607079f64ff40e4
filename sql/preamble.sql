-- Plain installation only: as an extension, the control file names the schema.
create schema if not exists flux authorization flux_owner;

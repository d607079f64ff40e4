create function flux.replace_setting() returns trigger
language plpgsql volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from flux.settings as s where s.name = new.name;
    return new;
end
$$;

comment on function flux.replace_setting() is
    'Lets an inserted setting take the place of an older one: a restore copies its rows into a schema that already has the first ones.';

create trigger replace_setting
    before insert on flux.settings
    for each row execute function flux.replace_setting();

comment on trigger replace_setting on flux.settings is
    'Without it a dump of the extension could not be restored.';

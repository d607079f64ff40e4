-- Null if there are no rules: then nothing has to be looked at. A json value may spell any letter as
-- \u0061, so such a text is looked at closely too.
create function flux.secret_words() returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select string_agg(
        flux.like_regex(regexp_replace(r.pattern, '^%+|(?<!\\)%+$', '', 'g'), '.*'), '|'
        order by r.pattern collate "C"
    ) || '|\\u'
    from flux.redactions as r
);
comment on function flux.secret_words() is
    'Regular expression, whatever the case, that every JSON text with a secret key in it matches, and most others do not.';

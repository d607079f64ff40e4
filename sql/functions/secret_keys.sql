create function flux.secret_keys(p_quote text default '"', p_colon text default ':') returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
return (
    select format('%1$s(?:%2$s)%1$s\s*%3$s|\\[^"]*"\s*%3$s', p_quote,
        string_agg(flux.like_regex(r.pattern, '[^"]*'), '|' order by r.pattern collate "C"), p_colon)
    from flux.redactions as r
);
comment on function flux.secret_keys(text, text) is
    'Regular expression, whatever the case, that matches JSON text where a key is secret, or may be because it is written with escapes. The arguments: how a quote and a colon are written.';

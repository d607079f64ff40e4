create function flux.digest_row(p_images text[]) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
return 'row:' || left(encode(sha256(convert_to(textin(array_out(p_images)), 'UTF8')), 'hex'), 32);
comment on function flux.digest_row(text[]) is
    'Name of a row of a table without a key: what it contains. Equal rows share it.';

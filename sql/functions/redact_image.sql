create function flux.redact_image(
    p_shape flux.table_shapes, p_id smallint, p_image text
) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_id = any (p_shape.redacted_ids) then
        return flux.redact_text(p_image);
    end if;
    return coalesce(
        flux.redact_document(p_image, flux.document_form(p_shape, p_id), flux.secret_keys()),
        p_image
    );
end
$$;
comment on function flux.redact_image(flux.table_shapes, smallint, text) is
    'What is written about the value of a column: its image, without what is secret.';

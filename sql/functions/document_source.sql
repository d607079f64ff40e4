create function flux.document_source(
    p_image text, p_id smallint, p_shape flux.table_shapes
) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_form text := flux.document_form(p_shape, p_id);
begin
    if v_form is null then
        return null;
    end if;
    return format(
        $f$
            v_document := %s;
            if v_document ~* %L then
                v_document := flux.redact_document(v_document, %L, %L);
            end if;$f$,
        p_image, flux.secret_words(), v_form, flux.secret_keys()
    );
end
$$;
comment on function flux.document_source(text, smallint, flux.table_shapes) is
    'Statements of a recorder that put what is written about a value with secrets inside into v_document; its image is made once. Null unless the column has such values.';

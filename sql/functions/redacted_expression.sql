create function flux.redacted_expression(
    p_image text, p_id smallint, p_shape flux.table_shapes
) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_form text := flux.document_form(p_shape, p_id);
begin
    if p_id = any (p_shape.redacted_ids) then
        return format('flux.redact_text(%s)', p_image);
    elsif v_form is null then
        return p_image;
    end if;
    return format('case when %1$s ~* %2$L then flux.redact_document(%1$s, %3$L, %4$L)'
        ' else %1$s end', p_image, flux.secret_words(), v_form, flux.secret_keys());
end
$$;
comment on function flux.redacted_expression(text, smallint, flux.table_shapes) is
    'SQL for what is written about a column, from the SQL of its image: that, or the hashes that stand in for what is secret.';

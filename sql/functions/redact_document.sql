create function flux.redact_document(p_image text, p_form text, p_keys text) returns text
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    v_documents text[];
begin
    if p_form = 'json' then
        return flux.redact_json(p_image, p_keys);
    elsif p_form = 'array' then
        v_documents := p_image::text[];
        if coalesce(array_ndims(v_documents), 0) <= 1 then
            for i in coalesce(array_lower(v_documents, 1), 1)
                .. coalesce(array_upper(v_documents, 1), 0)
            loop
                v_documents[i] := flux.redact_json(v_documents[i], p_keys);
            end loop;
            return textin(array_out(v_documents));
        end if;
    end if;
    -- Quoted once more, or several times over: the value goes as a whole.
    if p_image ~* flux.secret_keys('[\\"]+', '(?:[:]|=>)') or p_image ~ '\\u' then
        return flux.redact_text(p_image);
    end if;
    return p_image;
end
$$;
comment on function flux.redact_document(text, text, text) is
    'The image of a value with the secrets inside it replaced by their hashes. The arguments: the image, and the form that flux.document_form() gave, flux.secret_keys().';

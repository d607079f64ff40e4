-- Rights, in one place: nobody but flux_owner may do anything unless it is said here. Functions
-- are named without arguments; a test sees to it that each name exists and that no other function
-- can be called.
do $$
declare
    v_runtime constant text[] := array[
        'begin_request', 'ensure_partitions', 'record_request', 'continue_request', 'complete_request',
        'record_refusals', 'count_refusals', 'record_crashed', 'register_deployment',
        'collect_attempted', 'record_attempted', 'recorded_outcome', 'redaction_key', 'record_migration',
        'sign_failures', 'tick_snapshot', 'find_writers', 'keep_retention',
        -- Whoever may enqueue has functions run; who can do that records what they did.
        'declare_functions', 'enqueue', 'enqueue_many', 'claim_jobs', 'next_job_at', 'complete_job',
        'fail_job', 'cancel_attempt', 'job_crashed', 'extend_leases', 'release_jobs', 'cancel_job',
        'retry_job',
        'schedule', 'unschedule', 'pause_schedule', 'resume_schedule', 'run_schedule',
        'tick_schedules', 'sync_schedules', 'claims_key', 'assume', 'try_claims'
    ];
    -- Logins of callers: what they ask for they have to prove to be the runtime's (flux.sign).
    v_caller constant text[] := array['assume', 'for_caller', 'find_writers'];
    v_reader constant text[] := array[
        'span_hex', 'uuid_floor', 'trace', 'why', 'history', 'blame', 'state_at', 'row_at', 'verify',
        'queue_stats',
        'iso_time', 'shell_word', 'resolve_request', 'spans_json', 'mutations_json', 'called_json',
        'cause_span', 'seen_versions', 'last_success', 'function_place', 'previous_writers',
        'suggest_commands', 'similar', 'similar_json',
        'jobs_ending_in', 'resolve_job', 'job_attempt', 'describe_jobs', 'job_json', 'jobs_json',
        'job_input', 'parent_json', 'last_change', 'conflicting_key', 'conflicting_rows',
        'decode_key', 'decode_row', 'decode_image', 'decode_elements', 'split_record',
        'changed_ids', 'column_names', 'blame_from_log', 'read_live_images', 'live_row_query',
        'find_snapshot', 'undo_plan', 'undo_rows', 'undo_keyless', 'pick_images', 'shape_before',
        'state_before', 'shorten_key', 'digest_key', 'name_row', 'snapshot_before',
        'values_drawn_since', 'undo_condition', 'undone_query', 'rows_before', 'untouched_query',
        'mutations_between', 'changes_between', 'row_plan', 'row_before',
        'diff', 'variable_pattern', 'variable_parts', 'without_parts', 'is_same_moment', 'leaves',
        'caller_role', 'policies_in_the_way',
        'pair_up', 'has_failed', 'made_values', 'placed_spans', 'request_facts'
    ];
    -- Whoever owns a table may have it recorded; these ask whether he does.
    v_public constant text[] := array[
        'track', 'untrack', 'track_missing', 'make_recorder', 'refuse_untrackable',
        'wanted_triggers', 'partition_move_condition', 'tracking_state', 'is_left_out',
        'is_schema_tracked', 'forget_missing', 'new_partitions', 'detached_partitions',
        'note_partitions', 'note_recording_off',
        'end_tracking', 'untrack_partition', 'truncate_plan',
        'record_truncated_row', 'record_truncate', 'note_partition_move', 'track_new_tables',
        'forget_dropped_tables', 'prune', 'apply_settings',
        -- Policies are evaluated with the rights of whoever asks.
        'claims', 'claim'
    ];
    v_readable constant text[] := array[
        'executions', 'spans', 'mutations', 'deployments', 'functions', 'jobs', 'migrations',
        'redactions',
        'refusal_counts', 'schedules', 'schema_version', 'snapshots', 'table_shapes', 'tracked_tables',
        'tracking_gaps'
    ];
    v_function record;
    v_relation record;
begin
    grant usage on schema flux to public;
    for v_function in
        select p.oid::regprocedure as signature, p.proname as name
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'flux'::regnamespace
    loop
        execute format('revoke all on function %s from public', v_function.signature);
        if v_function.name = any (v_runtime) then
            execute format('grant execute on function %s to flux_runtime', v_function.signature);
        end if;
        if v_function.name = any (v_caller) then
            execute format('grant execute on function %s to flux_caller', v_function.signature);
        end if;
        if v_function.name = any (v_public) then
            execute format('grant execute on function %s to public', v_function.signature);
        end if;
        if v_function.name = any (v_reader) then
            execute format('grant execute on function %s to flux_reader', v_function.signature);
        end if;
    end loop;
    for v_relation in
        select c.oid::regclass as name
        from pg_catalog.pg_class as c
        where c.relnamespace = 'flux'::regnamespace
            and c.relkind in ('r', 'p', 'v')
            and c.relname = any (v_readable)
    loop
        execute format('grant select on table %s to flux_reader', v_relation.name);
    end loop;
end
$$;

-- Who made a token, so that nobody approves the own version through a token made for another name;
-- rows that stay are not deleted either; a key or an owner is pinned; what is looked up has an index.

-- `created_by` is organisation and subject as the audit log names them, `created_with` the token that
-- made this one. Null in tokens of former releases, and `created_with` in those an operator made.
alter table tokens add column created_by text;
alter table tokens add column created_with uuid references tokens (id);

create or replace function refuse_token_change() returns trigger language plpgsql as $$
begin
    if (new.id, new.subject, new.roles, new.digest, new.created_at, new.expires_at, new.organisation,
        new.models, new.created_by, new.created_with)
       is distinct from
       (old.id, old.subject, old.roles, old.digest, old.created_at, old.expires_at, old.organisation,
        old.models, old.created_by, old.created_with)
       or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at) then
        raise exception 'a token is immutable';
    end if;
    return new;
end $$;

-- The approver's organisation: the same subject in another one is somebody else. Null, as in former
-- releases, is the model's own.
alter table versions drop constraint versions_check;
alter table versions add column approver_organisation text references organisations (name);

create or replace function refuse_late_facts() returns trigger language plpgsql as $$
begin
    if new.sunset_at is distinct from old.sunset_at
       and not (old.state = 'approved' and new.state = 'deprecated') then
        raise exception 'a sunset date is immutable';
    end if;
    if (new.registry_key, new.counter_signature, new.approver_organisation)
       is distinct from (old.registry_key, old.counter_signature, old.approver_organisation)
       and not (old.state = 'submitted' and new.state = 'approved') then
        raise exception 'a counter-signature is immutable';
    end if;
    if new.approved_by = new.publisher and exists (
        select 1 from models where name = new.name
        and organisation = coalesce(new.approver_organisation, organisation)) then
        raise exception 'a version is not approved by its publisher';
    end if;
    return new;
end $$;

-- What stays. Usage is what budgets are counted by; a denied certificate stays denied.
create function refuse_delete() returns trigger language plpgsql as $$
begin
    raise exception '% are never deleted', tg_table_name;
end $$;

create trigger tokens_not_deleted before delete on tokens
    for each row execute function refuse_delete();
create trigger models_not_deleted before delete on models
    for each row execute function refuse_delete();
create trigger certificates_not_deleted before delete on certificates
    for each row execute function refuse_delete();
create trigger denied_certificates_stay before update or delete on denied_certificates
    for each row execute function refuse_history_change();
create trigger usage_not_deleted before delete on usage
    for each row execute function refuse_delete();
create trigger usage_kept before truncate on usage execute function refuse_truncate();

-- A worker that lost its key needs a new name: keys sealed to the old one would not open.
create function refuse_worker_change() returns trigger language plpgsql as $$
begin
    if (new.name, new.sealing_key) is distinct from (old.name, old.sealing_key) then
        raise exception 'a sealing key is immutable';
    end if;
    return new;
end $$;

create trigger workers_keep_their_keys before update on workers
    for each row execute function refuse_worker_change();

-- A model belongs to an organisation for ever.
create function refuse_model_change() returns trigger language plpgsql as $$
begin
    if (new.name, new.organisation) is distinct from (old.name, old.organisation) then
        raise exception 'the owner of a model is immutable';
    end if;
    return new;
end $$;

create trigger models_keep_their_owner before update on models
    for each row execute function refuse_model_change();

create index model_grants_by_organisation on model_grants (organisation);
create index consortium_members_by_organisation on consortium_members (organisation);
create index certificates_by_subject on certificates (subject);
create index placements_by_worker on placements (worker);

-- What is published stays as it was, whoever asks: rules that hold even against a mistake in the
-- registry's own code, or a hand on the database.

-- A name belongs to the publisher who used it first, so that nobody can put a version of theirs
-- under a name that others query. Organisations will own names later.
create table models (
    name        text primary key,
    publisher   text not null,
    created_at  timestamptz not null default now()
);

insert into models (name, publisher, created_at)
    select distinct on (name) name, publisher, created_at from versions order by name, created_at;

alter table versions add foreign key (name) references models (name);

-- A version is born a draft; only its state moves, along the lifecycle; who approved it and when is
-- written once, at that moment.
create or replace function refuse_version_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'a version cannot be deleted';
    end if;
    if tg_op = 'INSERT' then
        if new.state <> 'draft' or new.approved_at is not null or new.approved_by is not null then
            raise exception 'a version begins as a draft';
        end if;
        return new;
    end if;
    if (new.digest, new.name, new.manifest, new.signature, new.publisher_key, new.publisher, new.created_at)
       is distinct from
       (old.digest, old.name, old.manifest, old.signature, old.publisher_key, old.publisher, old.created_at) then
        raise exception 'a version is immutable';
    end if;
    if old.state = new.state then
        if (new.approved_at, new.approved_by) is distinct from (old.approved_at, old.approved_by) then
            raise exception 'an approval is immutable';
        end if;
        return new;
    end if;
    if (old.state, new.state) not in (('draft', 'submitted'), ('submitted', 'approved'),
            ('approved', 'deprecated'), ('submitted', 'revoked'), ('approved', 'revoked'),
            ('deprecated', 'revoked')) then
        raise exception 'a version cannot go from % to %', old.state, new.state;
    end if;
    if new.state = 'approved' then
        if new.approved_at is null or new.approved_by is null then
            raise exception 'an approval names its approver';
        end if;
    elsif (new.approved_at, new.approved_by) is distinct from (old.approved_at, old.approved_by) then
        raise exception 'an approval is immutable';
    end if;
    return new;
end $$;

drop trigger versions_are_immutable on versions;
create trigger versions_are_immutable before insert or update or delete on versions
    for each row execute function refuse_version_change();

-- Blobs, keys and placements change while their version is a draft, never after.
create function refuse_part_change() returns trigger language plpgsql as $$
declare
    part record;
begin
    if tg_op = 'DELETE' then part := old; else part := new; end if;
    if tg_op = 'UPDATE' and new.version <> old.version then
        raise exception 'a part stays with its version';
    end if;
    -- the share lock waits for a submission that is under way, and keeps the next one waiting
    perform 1 from versions where digest = part.version and state = 'draft' for share;
    if not found then
        raise exception 'a version that was submitted is immutable';
    end if;
    return part;
end $$;

create trigger blobs_stay before insert or update or delete on blobs
    for each row execute function refuse_part_change();
create trigger blob_pieces_stay before insert or update or delete on blob_pieces
    for each row execute function refuse_part_change();
create trigger sealed_keys_stay before insert or update or delete on sealed_keys
    for each row execute function refuse_part_change();
create trigger placements_stay before insert or update or delete on placements
    for each row execute function refuse_part_change();

-- A worker serves one run of steps of a version.
alter table placements drop constraint placements_pkey;
alter table placements add primary key (version, worker);

-- Of a token only the end may come earlier: it is revoked, once.
create function refuse_token_change() returns trigger language plpgsql as $$
begin
    if (new.id, new.subject, new.roles, new.digest, new.created_at, new.expires_at)
       is distinct from
       (old.id, old.subject, old.roles, old.digest, old.created_at, old.expires_at)
       or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at) then
        raise exception 'a token is immutable';
    end if;
    return new;
end $$;

create trigger tokens_are_immutable before update on tokens
    for each row execute function refuse_token_change();

alter table tokens add check (cardinality(roles) > 0
    and roles <@ array['admin', 'publisher', 'reviewer', 'querier']);

-- Row triggers do not see TRUNCATE.
create function refuse_truncate() returns trigger language plpgsql as $$
begin
    raise exception '% is never emptied', tg_table_name;
end $$;

create trigger audit_stays before truncate on audit execute function refuse_truncate();
create trigger versions_stay before truncate on versions execute function refuse_truncate();

-- Ciphertext does not compress; do not try.
alter table blob_pieces alter column content set storage external;

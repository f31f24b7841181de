-- Organisations, their members, consortia; who sees a model; aliases with history; deprecation with a
-- sunset date; quotas and budgets; signed checkpoints; denied certificates.

-- A tenant. Suspended, none of its tokens is accepted.
create table organisations (
    name          text primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    created_at    timestamptz not null default now(),
    suspended_at  timestamptz
);

-- What was there before organisations belongs to this one.
insert into organisations (name) values ('default');

create table consortia (
    name        text primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    created_at  timestamptz not null default now()
);

create table consortium_members (
    consortium    text not null references consortia (name),
    organisation  text not null references organisations (name),
    primary key (consortium, organisation)
);

-- People and service accounts. A token never allows more than its holder's roles at this moment.
create table members (
    organisation  text not null references organisations (name),
    subject       text not null check (length(subject) between 1 and 200),
    kind          text not null default 'person' check (kind in ('person', 'service')),
    roles         text[] not null check (roles <@ array['admin', 'org-admin', 'publisher', 'reviewer', 'querier', 'auditor']),
    created_at    timestamptz not null default now(),
    removed_at    timestamptz,
    primary key (organisation, subject)
);

insert into members (organisation, subject, roles)
    select 'default', subject, array_agg(distinct role)
    from tokens, unnest(roles) as role group by subject;

-- A token may be narrowed to some models; null means every model that its holder may use.
alter table tokens add column organisation text not null default 'default' references organisations (name);
alter table tokens alter column organisation drop default;
alter table tokens add column models text[] check (cardinality(models) > 0);
alter table tokens add foreign key (organisation, subject) references members (organisation, subject);
alter table tokens drop constraint tokens_roles_check;
alter table tokens add constraint tokens_roles_check check (cardinality(roles) > 0
    and roles <@ array['admin', 'org-admin', 'publisher', 'reviewer', 'querier', 'auditor']);
create index tokens_by_holder on tokens (organisation, subject);

create or replace function refuse_token_change() returns trigger language plpgsql as $$
begin
    if (new.id, new.subject, new.roles, new.digest, new.created_at, new.expires_at, new.organisation, new.models)
       is distinct from
       (old.id, old.subject, old.roles, old.digest, old.created_at, old.expires_at, old.organisation, old.models)
       or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at) then
        raise exception 'a token is immutable';
    end if;
    return new;
end $$;

-- A model belongs to an organisation for ever, and is private until its owner says otherwise. What
-- was published before stays visible to everyone, as it was.
alter table models add column organisation text not null default 'default' references organisations (name);
alter table models alter column organisation drop default;
alter table models add column visibility text not null default 'everyone'
    check (visibility in ('private', 'listed', 'consortium', 'everyone'));
alter table models alter column visibility set default 'private';
alter table models add column consortium text references consortia (name);
alter table models add check ((visibility = 'consortium') = (consortium is not null));

create table model_grants (
    model         text not null references models (name),
    organisation  text not null references organisations (name),
    primary key (model, organisation)
);

create index versions_newest on versions (created_at desc, digest desc);

-- Written once: the sunset date with the deprecation, the counter-signature with the approval.
alter table versions add column sunset_at timestamptz;
alter table versions add column registry_key bytea check (length(registry_key) = 32);
alter table versions add column counter_signature bytea check (length(counter_signature) = 64);

create function refuse_late_facts() returns trigger language plpgsql as $$
begin
    if new.sunset_at is distinct from old.sunset_at
       and not (old.state = 'approved' and new.state = 'deprecated') then
        raise exception 'a sunset date is immutable';
    end if;
    if (new.registry_key, new.counter_signature) is distinct from (old.registry_key, old.counter_signature)
       and not (old.state = 'submitted' and new.state = 'approved') then
        raise exception 'a counter-signature is immutable';
    end if;
    return new;
end $$;

create trigger versions_late_facts before update on versions
    for each row execute function refuse_late_facts();

-- `name@alias`. The history is the truth, the table its last line.
create table aliases (
    model    text not null references models (name),
    alias    text not null,
    version  bytea not null references versions (digest),
    primary key (model, alias)
);

create table alias_history (
    id            bigint generated always as identity primary key,
    model         text not null references models (name),
    alias         text not null,
    from_version  bytea references versions (digest),
    to_version    bytea not null references versions (digest),
    actor         text not null,
    at            timestamptz not null default now()
);

create function refuse_history_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append only', tg_table_name;
end $$;

create trigger alias_history_stays before update or delete on alias_history
    for each row execute function refuse_history_change();

-- Limits that a model's owner sets for an organisation; '*' is every organisation without a row of
-- its own. Null means unlimited.
create table quotas (
    model                text not null references models (name),
    organisation         text not null,
    queries_per_day      bigint check (queries_per_day >= 0),
    concurrent_sessions  bigint check (concurrent_sessions >= 0),
    bytes_per_day        bigint check (bytes_per_day >= 0),
    compute_ms_per_day   bigint check (compute_ms_per_day >= 0),
    lifetime_queries     bigint check (lifetime_queries >= 0),
    primary key (model, organisation)
);

-- What was used on a UTC day; the lifetime counter has the day 1970-01-01. `queries` counts reserved
-- and settled ones alike, so that a crash between the two never gives a query away.
create table usage (
    model         text not null references models (name),
    organisation  text not null references organisations (name),
    day           date not null,
    queries       bigint not null default 0 check (queries >= 0),
    bytes         bigint not null default 0 check (bytes >= 0),
    compute_ms    bigint not null default 0 check (compute_ms >= 0),
    primary key (model, organisation, day)
);

-- Queries under way: reserved by a gateway, settled once. An open one past its deadline stays counted.
create table reservations (
    id            uuid primary key,
    model         text not null references models (name),
    organisation  text not null references organisations (name),
    day           date not null,
    queries       bigint not null check (queries > 0),
    created_at    timestamptz not null default now(),
    expires_at    timestamptz not null,
    settled_at    timestamptz
);
create index reservations_open on reservations (model, organisation, expires_at)
    where settled_at is null;

-- The registry's signature over the hash of an audit row.
create table audit_checkpoints (
    number     bigint primary key,
    at_micros  bigint not null,
    hash       bytea not null check (length(hash) = 32),
    key        bytea not null check (length(key) = 32),
    signature  bytea not null check (length(signature) = 64)
);

create trigger audit_checkpoints_stay before update or delete on audit_checkpoints
    for each row execute function refuse_history_change();

-- Certificates that are refused although they have not expired, by subject, e.g.
-- 'chemxor://worker/w1', and by serial number (lower-case hexadecimal) or '*' for every one.
create table denied_certificates (
    subject    text not null,
    serial     text not null default '*',
    reason     text not null,
    denied_at  timestamptz not null default now(),
    primary key (subject, serial)
);

-- The platform's first schema. Forward only: once released, this file never changes.
--
-- What is secret never reaches this database in clear: tokens are stored as SHA-256, weights as
-- ciphertext under keys that are sealed to workers, client keys not at all.

-- People and programs. A subject is what an administrator wrote when making the token,
-- e.g. "alice@uni-basel". Roles are checked against the table in chemxor-core.
create table tokens (
    id          uuid primary key,
    subject     text not null check (length(subject) between 1 and 200),
    roles       text[] not null,
    digest      bytea not null unique check (length(digest) = 32),
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null,
    revoked_at  timestamptz
);

-- Partition workers, by the name in their certificate. The sealing key is pinned at the first
-- registration: a worker that lost its key needs a new name, because keys sealed to the old one
-- would not open.
create table workers (
    name         text primary key,
    sealing_key  bytea not null check (length(sealing_key) = 32),
    endpoint     text not null,
    last_seen    timestamptz not null default now()
);

-- A version is named by the SHA-256 of its manifest bytes and never changes; only its state moves.
create table versions (
    digest         bytea primary key check (length(digest) = 32),
    name           text not null,
    manifest       bytea not null,
    signature      bytea not null check (length(signature) = 64),
    publisher_key  bytea not null check (length(publisher_key) = 32),
    publisher      text not null,
    state          text not null default 'draft'
                   check (state in ('draft', 'submitted', 'approved', 'deprecated', 'revoked')),
    created_at     timestamptz not null default now(),
    approved_at    timestamptz,
    approved_by    text check (approved_by is distinct from publisher)
);

create index versions_by_name on versions (name, approved_at desc nulls last);

-- The database itself refuses to change what was published, whoever asks.
create function refuse_version_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'a version cannot be deleted';
    end if;
    if (new.digest, new.name, new.manifest, new.signature, new.publisher_key, new.publisher, new.created_at)
       is distinct from
       (old.digest, old.name, old.manifest, old.signature, old.publisher_key, old.publisher, old.created_at) then
        raise exception 'a version is immutable';
    end if;
    if not ((old.state, new.state) in (('draft', 'submitted'), ('submitted', 'approved'),
            ('approved', 'deprecated'), ('submitted', 'revoked'), ('approved', 'revoked'),
            ('deprecated', 'revoked')) or old.state = new.state) then
        raise exception 'a version cannot go from % to %', old.state, new.state;
    end if;
    return new;
end $$;

create trigger versions_are_immutable before update or delete on versions
    for each row execute function refuse_version_change();

-- Encrypted weights, one blob a step. Pieces are appended in order until length is reached and the
-- digest has been checked (complete). Content addressed within its version.
create table blobs (
    version   bytea not null references versions (digest),
    step      integer not null check (step >= 0),
    sha256    bytea not null check (length(sha256) = 32),
    length    bigint not null check (length > 0),
    complete  boolean not null default false,
    primary key (version, step),
    unique (version, sha256)
);

create table blob_pieces (
    version     bytea not null,
    sha256      bytea not null,
    start_at    bigint not null check (start_at >= 0),
    content     bytea not null,
    primary key (version, sha256, start_at),
    foreign key (version, sha256) references blobs (version, sha256)
);

-- Keys sealed to workers; step 4294967295 is the key of the state between steps.
create table sealed_keys (
    version       bytea not null references versions (digest),
    worker        text not null references workers (name),
    step          bigint not null,
    encapsulated  bytea not null,
    ciphertext    bytea not null,
    primary key (version, worker, step)
);

create table placements (
    version     bytea not null references versions (digest),
    worker      text not null references workers (name),
    first_step  integer not null,
    end_step    integer not null check (end_step > first_step),
    primary key (version, worker, first_step)
);

-- Who did what, when. Append only; each row's hash covers the row and the hash before it, so a
-- changed, removed or reordered row is found. No molecule, token or key is ever written here.
create table audit (
    number     bigint primary key,
    at         timestamptz not null,
    actor      text not null,
    action     text not null,
    object     text not null,
    detail     text not null,
    prev_hash  bytea not null check (length(prev_hash) = 32),
    hash       bytea not null check (length(hash) = 32)
);

create function refuse_audit_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append only';
end $$;

create trigger audit_is_append_only before update or delete on audit
    for each row execute function refuse_audit_change();

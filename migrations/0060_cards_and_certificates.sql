-- Model cards beside their versions; certificate requests and the certificates that answered them.

-- A card is a document about a version, signed with the version's key. Each change is a new revision;
-- no revision is ever changed or removed.
create table cards (
    version     bytea not null references versions (digest),
    revision    integer not null check (revision > 0),
    card        bytea not null check (length(card) between 1 and 262144),
    signature   bytea not null check (length(signature) = 64),
    created_at  timestamptz not null default now(),
    primary key (version, revision)
);

create trigger cards_stay before update or delete on cards
    for each row execute function refuse_history_change();

-- What parties asked for and what an operator's authority answered. The authority's key is not here.
create table certificates (
    id             uuid primary key,
    subject        text not null check (length(subject) between 1 and 200),
    state          text not null check (state in ('waiting', 'issued', 'refused')),
    request        text not null check (length(request) between 1 and 16384),
    certificate    text check (length(certificate) between 1 and 16384),
    serial         text,
    requested_at   timestamptz not null default now(),
    decided_at     timestamptz,
    expires_at     timestamptz,
    reason         text not null default '',
    check ((state = 'issued') = (certificate is not null and serial is not null and expires_at is not null)),
    check ((state = 'waiting') = (decided_at is null))
);

-- One request of a subject waits at a time.
create unique index certificates_waiting on certificates (subject) where state = 'waiting';
create index certificates_newest on certificates (requested_at desc, id);

-- Decided once.
create function refuse_decided_certificate() returns trigger language plpgsql as $$
begin
    if old.state <> 'waiting' or new.id <> old.id or new.subject <> old.subject then
        raise exception 'a decided certificate request is immutable';
    end if;
    return new;
end $$;

create trigger certificates_decided_once before update on certificates
    for each row execute function refuse_decided_certificate();

-- Whom a worker serves, and that a worker whose certificate was denied serves nobody.

-- Organisations whose models may be placed on it; empty is everybody's, as in former releases.
alter table workers add column organisations text[] not null default '{}';
-- Serial number of the certificate with which it registered last; empty until it registers again.
alter table workers add column certificate_serial text not null default '';

-- Whether a worker may hold steps of an organisation's models.
create function worker_serves(worker workers, organisation text) returns boolean language sql stable as $$
    select (cardinality(worker.organisations) = 0 or organisation = any (worker.organisations))
        and not exists (
            select 1 from denied_certificates
            where subject = 'chemxor://worker/' || worker.name
            and serial in ('*', worker.certificate_serial))
$$;

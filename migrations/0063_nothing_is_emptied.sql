-- Row triggers do not see TRUNCATE: every table whose rows stay refuses it, those of later
-- migrations too. Models and tokens are kept as well; what was theirs is in the audit log by name.

create trigger audit_checkpoints_kept before truncate on audit_checkpoints
    execute function refuse_truncate();
create trigger alias_history_kept before truncate on alias_history
    execute function refuse_truncate();
create trigger cards_kept before truncate on cards execute function refuse_truncate();
create trigger certificates_kept before truncate on certificates
    execute function refuse_truncate();
create trigger conformance_kept before truncate on conformance execute function refuse_truncate();
create trigger denied_certificates_kept before truncate on denied_certificates
    execute function refuse_truncate();
create trigger models_kept before truncate on models execute function refuse_truncate();
create trigger tokens_kept before truncate on tokens execute function refuse_truncate();
create trigger blobs_kept before truncate on blobs execute function refuse_truncate();
create trigger blob_pieces_kept before truncate on blob_pieces execute function refuse_truncate();
create trigger sealed_keys_kept before truncate on sealed_keys execute function refuse_truncate();
create trigger placements_kept before truncate on placements execute function refuse_truncate();

CREATE TABLE jobs (
  uid TEXT NOT NULL,
  source TEXT NOT NULL,
  account TEXT NOT NULL,
  external_id TEXT NOT NULL,
  status TEXT,
  phase TEXT,
  outcome TEXT,
  sequence INTEGER NOT NULL,
  retry_count INTEGER NOT NULL,
  running_sent INTEGER NOT NULL,
  running_started_at FLOAT,
  overdue INTEGER NOT NULL,
  action TEXT,
  channel TEXT,
  scheduled_at FLOAT,
  started_at FLOAT,
  next_attempt_at FLOAT,
  attempt_count INTEGER NOT NULL,
  spacing_seconds FLOAT,
  weight FLOAT NOT NULL,
  tracked_at FLOAT NOT NULL,
  last_polled_at FLOAT,
  next_poll_at FLOAT,
  poll_step SMALLINT DEFAULT '0' NOT NULL,
  closed_at FLOAT,
  deadline_at FLOAT,
  deadline_seconds FLOAT,
  poll_count INTEGER NOT NULL,
  failure_count INTEGER NOT NULL,
  missing_count INTEGER NOT NULL,
  missing_since FLOAT,
  last_error JSONB,
  metadata BYTEA NOT NULL,
  upstream BYTEA,
  request BYTEA,
  connect_account_id TEXT,
  group_name TEXT,
  group_round INTEGER,
  result_status TEXT,
  error_code TEXT,
  captured BYTEA,
  CONSTRAINT pk_jobs PRIMARY KEY (uid),
  CONSTRAINT uq_jobs_external_id_source_account UNIQUE (external_id, source, account)
)

CREATE INDEX ix_jobs_account_uid ON jobs (account, uid)

CREATE INDEX ix_jobs_captured ON jobs (uid) WHERE captured IS NOT NULL

CREATE INDEX ix_jobs_channel ON jobs (channel, uid) WHERE channel IS NOT NULL

CREATE INDEX ix_jobs_closed ON jobs (closed_at, uid) WHERE closed_at IS NOT NULL

CREATE INDEX ix_jobs_closed_uid ON jobs (uid) WHERE closed_at IS NOT NULL

CREATE INDEX ix_jobs_connect ON jobs (connect_account_id, uid) WHERE connect_account_id IS NOT NULL

CREATE INDEX ix_jobs_deadline ON jobs (source, account, deadline_at, uid) WHERE closed_at IS NULL AND overdue = 0

CREATE INDEX ix_jobs_failed ON jobs (source, account, error_code, connect_account_id, closed_at, uid) WHERE error_code IS NOT NULL

CREATE INDEX ix_jobs_group ON jobs (group_name, uid) WHERE group_name IS NOT NULL

CREATE INDEX ix_jobs_group_work ON jobs (source, account, group_name, closed_at, channel, scheduled_at) WHERE group_name IS NOT NULL

CREATE INDEX ix_jobs_open ON jobs (source, account, uid) WHERE closed_at IS NULL

CREATE INDEX ix_jobs_open_connect ON jobs (source, account, connect_account_id, uid) WHERE closed_at IS NULL AND connect_account_id IS NOT NULL

CREATE INDEX ix_jobs_open_uid ON jobs (uid) WHERE closed_at IS NULL

CREATE INDEX ix_jobs_source_uid ON jobs (source, uid)

CREATE INDEX ix_jobs_status_uid ON jobs (status, uid)

CREATE TABLE events (
  position BIGSERIAL NOT NULL,
  id TEXT NOT NULL,
  job_uid TEXT,
  sequence INTEGER,
  type TEXT NOT NULL,
  source TEXT NOT NULL,
  subject TEXT,
  time FLOAT NOT NULL,
  recorded_at FLOAT NOT NULL,
  body BYTEA NOT NULL,
  owner TEXT,
  stream TEXT,
  identity TEXT,
  CONSTRAINT pk_events PRIMARY KEY (position),
  CONSTRAINT uq_events_id UNIQUE (id),
  CONSTRAINT uq_events_job_uid_sequence UNIQUE (job_uid, sequence)
)

CREATE INDEX ix_events_owner ON events (owner, recorded_at, position)

CREATE INDEX ix_events_recorded_at ON events (recorded_at, position)

CREATE INDEX ix_events_subject ON events (subject, recorded_at, position)

CREATE INDEX ix_events_type ON events (type, recorded_at, position)

CREATE UNIQUE INDEX uq_events_identity ON events (identity) WHERE identity IS NOT NULL

ALTER TABLE events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()

CREATE INDEX ix_events_xid ON events (xid, position)

CREATE TABLE streams (
  uid TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  used_at FLOAT NOT NULL,
  CONSTRAINT pk_streams PRIMARY KEY (uid)
)

CREATE INDEX ix_streams_used_at ON streams (used_at)

CREATE TABLE subscriptions (
  id TEXT NOT NULL,
  kind TEXT NOT NULL,
  sink_digest TEXT NOT NULL,
  sealed BYTEA NOT NULL,
  types JSONB,
  source TEXT,
  owner TEXT,
  state TEXT NOT NULL,
  state_since FLOAT,
  state_reason TEXT,
  callback INTEGER NOT NULL,
  config JSONB NOT NULL,
  description TEXT,
  created_at FLOAT NOT NULL,
  start_at FLOAT,
  failing_since FLOAT,
  failing_reason TEXT,
  paused_until FLOAT,
  probe_at FLOAT,
  drain_since FLOAT,
  refresh_until FLOAT,
  consent JSONB,
  handshake_at FLOAT,
  creator TEXT,
  CONSTRAINT pk_subscriptions PRIMARY KEY (id)
)

CREATE INDEX ix_subscriptions_failing ON subscriptions (failing_since) WHERE failing_since IS NOT NULL

CREATE INDEX ix_subscriptions_handshake ON subscriptions (handshake_at, id) WHERE state = 'pending'

CREATE INDEX ix_subscriptions_listed ON subscriptions (id) WHERE callback = 0

CREATE INDEX ix_subscriptions_owner ON subscriptions (owner, id) WHERE owner IS NOT NULL

CREATE UNIQUE INDEX uq_subscriptions_callback ON subscriptions (sink_digest) WHERE callback = 1

CREATE TABLE secrets (
  id TEXT NOT NULL,
  owner TEXT NOT NULL,
  ciphertext BYTEA NOT NULL,
  created_at FLOAT NOT NULL,
  expires_at FLOAT,
  CONSTRAINT pk_secrets PRIMARY KEY (id)
)

CREATE INDEX ix_secrets_expires_at ON secrets (expires_at) WHERE expires_at IS NOT NULL

CREATE INDEX ix_secrets_owner ON secrets (owner)

CREATE TABLE deliveries (
  id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  job_uid TEXT,
  sequence INTEGER,
  state TEXT NOT NULL,
  priority INTEGER NOT NULL,
  due_at FLOAT NOT NULL,
  attempt_count INTEGER NOT NULL,
  made_count INTEGER NOT NULL,
  lease_token TEXT,
  created_at FLOAT NOT NULL,
  ended_at FLOAT,
  reason TEXT,
  replay TEXT,
  was TEXT,
  owner TEXT,
  alone SMALLINT DEFAULT '0' NOT NULL,
  round INTEGER DEFAULT '0' NOT NULL,
  CONSTRAINT pk_deliveries PRIMARY KEY (id),
  CONSTRAINT uq_deliveries_event_id_subscription_id UNIQUE (event_id, subscription_id)
)

CREATE INDEX ix_deliveries_cancelled ON deliveries (id) WHERE state = 'cancelled'

CREATE INDEX ix_deliveries_dead ON deliveries (id) WHERE state = 'dead'

CREATE INDEX ix_deliveries_due ON deliveries (subscription_id, priority, due_at) WHERE state = 'pending'

CREATE INDEX ix_deliveries_lease ON deliveries (lease_token) WHERE lease_token IS NOT NULL

CREATE INDEX ix_deliveries_open ON deliveries (job_uid, subscription_id, sequence) WHERE state IN ('pending', 'blocked')

CREATE INDEX ix_deliveries_owner ON deliveries (owner, id) WHERE owner IS NOT NULL

CREATE INDEX ix_deliveries_pending ON deliveries (id) WHERE state IN ('pending', 'blocked') AND created_at >= 0

CREATE INDEX ix_deliveries_replay ON deliveries (replay) WHERE replay IS NOT NULL

CREATE INDEX ix_deliveries_skipped ON deliveries (subscription_id, created_at) WHERE state = 'cancelled' AND reason IN ('unmatched', 'ambiguous')

CREATE INDEX ix_deliveries_subscription_id_id ON deliveries (subscription_id, id)

CREATE INDEX ix_deliveries_uncertain ON deliveries (id) WHERE state = 'uncertain'

CREATE TABLE attempts (
  position BIGSERIAL NOT NULL,
  delivery_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  started_at FLOAT NOT NULL,
  duration_ms FLOAT NOT NULL,
  status_code INTEGER,
  error TEXT,
  details BYTEA,
  response_excerpt TEXT,
  remote_ip TEXT,
  decision TEXT,
  CONSTRAINT pk_attempts PRIMARY KEY (position)
)

CREATE INDEX ix_attempts_delivery_id_number ON attempts (delivery_id, number)

CREATE TABLE accounts (
  source TEXT NOT NULL,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  since FLOAT,
  problem JSONB,
  key_ciphertext BYTEA,
  holder TEXT,
  held_until FLOAT,
  plan TEXT,
  listed_at FLOAT,
  CONSTRAINT pk_accounts PRIMARY KEY (source, name)
)

CREATE TABLE hazards (
  source TEXT NOT NULL,
  name TEXT NOT NULL,
  event_count FLOAT NOT NULL,
  values_json TEXT NOT NULL,
  updated_at FLOAT NOT NULL,
  CONSTRAINT pk_hazards PRIMARY KEY (source, name)
)

CREATE TABLE job_callbacks (
  job_uid TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  types TEXT,
  CONSTRAINT pk_job_callbacks PRIMARY KEY (job_uid, subscription_id)
)

CREATE INDEX ix_job_callbacks_subscription_id ON job_callbacks (subscription_id)

CREATE TABLE idempotency_keys (
  id TEXT NOT NULL,
  body_digest TEXT NOT NULL,
  status_code INTEGER,
  ciphertext BYTEA,
  created_at FLOAT NOT NULL,
  holder TEXT,
  held_until FLOAT,
  CONSTRAINT pk_idempotency_keys PRIMARY KEY (id)
)

CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at)

CREATE TABLE intents (
  id TEXT NOT NULL,
  source TEXT NOT NULL,
  account TEXT NOT NULL,
  path TEXT NOT NULL,
  body_digest TEXT NOT NULL,
  idempotency_key TEXT,
  created_at FLOAT NOT NULL,
  reason TEXT,
  status_code INTEGER,
  channel TEXT,
  connect_account_id TEXT,
  request BYTEA,
  metadata BYTEA,
  sealed BYTEA,
  told SMALLINT DEFAULT '0' NOT NULL,
  fate TEXT,
  job_id TEXT,
  group_name TEXT,
  group_size BIGINT,
  CONSTRAINT pk_intents PRIMARY KEY (id)
)

CREATE INDEX ix_intents_repeat ON intents (source, account, path, body_digest) WHERE idempotency_key IS NOT NULL

CREATE INDEX ix_intents_unknown ON intents (id) WHERE reason IS NOT NULL AND fate IS NULL

CREATE INDEX ix_intents_untold ON intents (reason, id) WHERE told = 0

CREATE TABLE replays (
  id TEXT NOT NULL,
  subscription_id TEXT,
  owner TEXT,
  state TEXT NOT NULL,
  since FLOAT NOT NULL,
  until FLOAT NOT NULL,
  types JSONB,
  which TEXT NOT NULL,
  reason TEXT,
  position BIGINT NOT NULL,
  last_position BIGINT NOT NULL,
  matched BIGINT NOT NULL,
  passed BIGINT NOT NULL,
  queued BIGINT NOT NULL,
  delivered BIGINT NOT NULL,
  dead BIGINT NOT NULL,
  holder TEXT,
  held_until FLOAT,
  created_at FLOAT NOT NULL,
  ended_at FLOAT,
  CONSTRAINT pk_replays PRIMARY KEY (id)
)

CREATE INDEX ix_replays_ended_at ON replays (ended_at) WHERE ended_at IS NOT NULL

CREATE INDEX ix_replays_running ON replays (id) WHERE state = 'running'

CREATE TABLE tokens (
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  scopes JSONB NOT NULL,
  created_at FLOAT NOT NULL,
  created_by TEXT NOT NULL,
  expires_at FLOAT,
  last_used_at FLOAT,
  source TEXT,
  account TEXT,
  networks JSONB NOT NULL,
  requests_per_minute INTEGER,
  CONSTRAINT pk_tokens PRIMARY KEY (id),
  CONSTRAINT uq_tokens_name UNIQUE (name),
  CONSTRAINT uq_tokens_digest UNIQUE (digest)
)

CREATE TABLE audit (
  number BIGINT NOT NULL,
  id TEXT NOT NULL,
  at FLOAT NOT NULL,
  action TEXT NOT NULL,
  actor TEXT,
  token_id TEXT,
  target TEXT,
  address TEXT,
  result TEXT NOT NULL,
  status INTEGER,
  times BIGINT NOT NULL,
  request_id TEXT,
  ends BIGINT,
  detail BYTEA NOT NULL,
  previous BYTEA NOT NULL,
  mac BYTEA NOT NULL,
  CONSTRAINT pk_audit PRIMARY KEY (number)
)

CREATE INDEX ix_audit_action_id ON audit (action, id)

CREATE INDEX ix_audit_actor_id ON audit (actor, id)

CREATE INDEX ix_audit_ends ON audit (ends) WHERE ends IS NOT NULL

CREATE UNIQUE INDEX ix_audit_id ON audit (id)

CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM audit WHERE action = 'audit.cut' AND times >= OLD.number) THEN RETURN OLD; END IF; RAISE EXCEPTION 'the audit is append-only'; END $$

CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_append_only()

CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()

CREATE TABLE callback_hosts (
  caller TEXT NOT NULL,
  host TEXT NOT NULL,
  used_at FLOAT NOT NULL,
  CONSTRAINT pk_callback_hosts PRIMARY KEY (caller, host)
)

CREATE INDEX ix_callback_hosts_used_at ON callback_hosts (used_at)

CREATE TABLE sink_memories (
  subscription_id TEXT NOT NULL,
  key TEXT NOT NULL,
  data TEXT NOT NULL,
  token TEXT,
  held_until FLOAT,
  updated_at FLOAT NOT NULL,
  CONSTRAINT pk_sink_memories PRIMARY KEY (subscription_id, key)
)

CREATE INDEX ix_sink_memories_key ON sink_memories (key)

CREATE INDEX ix_sink_memories_updated_at ON sink_memories (updated_at)

CREATE TABLE figures (
  name TEXT NOT NULL,
  label TEXT NOT NULL,
  span TEXT NOT NULL,
  began_at FLOAT NOT NULL,
  bucket INTEGER NOT NULL,
  count BIGINT NOT NULL,
  total FLOAT NOT NULL,
  CONSTRAINT pk_figures PRIMARY KEY (name, label, span, began_at, bucket)
)

CREATE INDEX ix_figures_span ON figures (span, began_at)

CREATE TABLE sessions (
  digest TEXT NOT NULL,
  kind TEXT NOT NULL,
  token_digest TEXT NOT NULL,
  name TEXT NOT NULL,
  created_at FLOAT NOT NULL,
  expires_at FLOAT NOT NULL,
  CONSTRAINT pk_sessions PRIMARY KEY (digest)
)

CREATE INDEX ix_sessions_expires_at ON sessions (expires_at)

CREATE INDEX ix_sessions_token ON sessions (token_digest, kind, created_at)

CREATE TABLE job_search (
  key TEXT NOT NULL,
  digest BYTEA NOT NULL,
  job_uid TEXT NOT NULL,
  CONSTRAINT pk_job_search PRIMARY KEY (key, digest, job_uid)
)

CREATE INDEX ix_job_search_job_uid ON job_search (job_uid)

CREATE TABLE versions (
  name TEXT NOT NULL,
  number INTEGER NOT NULL,
  CONSTRAINT pk_versions PRIMARY KEY (name)
)

CREATE TABLE groups (
  id TEXT NOT NULL,
  source TEXT NOT NULL,
  account TEXT NOT NULL,
  name TEXT NOT NULL,
  round INTEGER NOT NULL,
  expected BIGINT,
  closed_at FLOAT,
  counts JSONB NOT NULL,
  skipped BIGINT NOT NULL,
  failures JSONB NOT NULL,
  first_at FLOAT NOT NULL,
  last_at FLOAT NOT NULL,
  max_gap_seconds FLOAT NOT NULL,
  finished_at FLOAT,
  due_at FLOAT,
  CONSTRAINT pk_groups PRIMARY KEY (id),
  CONSTRAINT uq_groups_source_account_name UNIQUE (source, account, name)
)

CREATE INDEX ix_groups_account ON groups (account, id)

CREATE INDEX ix_groups_due ON groups (due_at, id) WHERE due_at IS NOT NULL

CREATE INDEX ix_groups_finished ON groups (finished_at, id) WHERE finished_at IS NOT NULL

CREATE INDEX ix_groups_name ON groups (name)

CREATE INDEX ix_groups_open ON groups (id) WHERE finished_at IS NULL

CREATE INDEX ix_groups_source ON groups (source, id)

CREATE TABLE incidents (
  id TEXT NOT NULL,
  digest TEXT NOT NULL,
  kind TEXT NOT NULL,
  source TEXT,
  account TEXT,
  owner TEXT,
  connect_account_id TEXT,
  subscription_id TEXT,
  sink TEXT,
  code TEXT,
  channel TEXT,
  state TEXT NOT NULL,
  recent JSONB NOT NULL,
  failed_count BIGINT NOT NULL,
  told_count BIGINT NOT NULL,
  first_failure_at FLOAT NOT NULL,
  last_failure_at FLOAT NOT NULL,
  opened_at FLOAT,
  closed_at FLOAT,
  closed_because TEXT,
  hint JSONB,
  due_at FLOAT,
  CONSTRAINT pk_incidents PRIMARY KEY (id)
)

CREATE INDEX ix_incidents_closed_at ON incidents (closed_at, id) WHERE closed_at IS NOT NULL

CREATE INDEX ix_incidents_due ON incidents (due_at, id) WHERE due_at IS NOT NULL

CREATE INDEX ix_incidents_live ON incidents (owner, state, due_at) WHERE state IN ('watching', 'open')

CREATE INDEX ix_incidents_open ON incidents (id) WHERE state = 'open'

CREATE INDEX ix_incidents_owner ON incidents (owner, id)

CREATE INDEX ix_incidents_shown ON incidents (id) WHERE state <> 'watching'

CREATE UNIQUE INDEX uq_incidents_digest ON incidents (digest) WHERE state IN ('watching', 'open')

CREATE TABLE connect_accounts (
  source TEXT NOT NULL,
  account TEXT NOT NULL,
  id TEXT NOT NULL,
  uid TEXT NOT NULL,
  channel TEXT,
  name TEXT,
  status TEXT,
  can_send INTEGER,
  state TEXT NOT NULL,
  since FLOAT NOT NULL,
  unconfirmed TEXT,
  unconfirmed_at FLOAT,
  changes JSONB NOT NULL,
  told_state TEXT NOT NULL,
  told_at FLOAT,
  CONSTRAINT pk_connect_accounts PRIMARY KEY (source, account, id)
)

CREATE INDEX ix_connect_accounts_removed ON connect_accounts (since) WHERE state = 'removed'

CREATE UNIQUE INDEX uq_connect_accounts_uid ON connect_accounts (uid)

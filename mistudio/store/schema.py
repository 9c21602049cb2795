"""The schema: migrations in order, each a named function."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("mistudio")

_TIMES = "created_at TEXT NOT NULL, updated_at TEXT NOT NULL"
_WORK = "status TEXT NOT NULL, progress REAL, error_code TEXT, error_message TEXT"


def _create(db: Database, statements: str) -> None:
    for statement in statements.split(";"):
        if statement.strip():
            db.conn.execute(statement)


@migrations()
def first_schema(db: Database) -> None:
    """Every table of the first release."""
    _create(
        db,
        f"""
        CREATE TABLE jobs (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, lane TEXT NOT NULL, title TEXT NOT NULL,
            config TEXT NOT NULL, target_id TEXT, {_WORK}, error_details TEXT,
            retryable INTEGER NOT NULL DEFAULT 0, phase TEXT, rate TEXT, eta_s REAL,
            request TEXT, pid INTEGER, heartbeat_at REAL, checkpoint TEXT,
            retry_of TEXT REFERENCES jobs(id) ON DELETE SET NULL,
            retry_count INTEGER NOT NULL DEFAULT 0, result TEXT, hidden INTEGER NOT NULL DEFAULT 0,
            position REAL NOT NULL, started_at TEXT, finished_at TEXT, {_TIMES});
        CREATE INDEX jobs_by_state ON jobs(status, lane, position);
        CREATE UNIQUE INDEX one_active_job ON jobs(kind, target_id)
            WHERE target_id IS NOT NULL AND status IN ('queued', 'running');

        CREATE TABLE datasets (
            id TEXT PRIMARY KEY, name TEXT NOT NULL CHECK(length(name) BETWEEN 1 AND 500),
            source TEXT NOT NULL, repo_id TEXT, config TEXT, split TEXT, revision TEXT,
            text_column TEXT, description TEXT, licence TEXT, num_samples INTEGER,
            statistics TEXT, path TEXT, size_bytes INTEGER, {_WORK}, {_TIMES});

        CREATE TABLE models (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, repo_id TEXT, revision TEXT,
            origin TEXT NOT NULL, architecture TEXT, params_count INTEGER, format TEXT,
            num_layers INTEGER, hidden_dim INTEGER, num_heads INTEGER, num_kv_heads INTEGER,
            vocab_size INTEGER, max_positions INTEGER, architecture_config TEXT, layer_map TEXT,
            logit_lens_ready INTEGER NOT NULL DEFAULT 0,
            trust_remote_code INTEGER NOT NULL DEFAULT 0, memory_bytes INTEGER,
            path TEXT NOT NULL, size_bytes INTEGER, {_WORK}, {_TIMES},
            UNIQUE (repo_id, revision));

        CREATE TABLE tokenizations (
            id TEXT PRIMARY KEY,
            dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
            model_id TEXT REFERENCES models(id) ON DELETE SET NULL,
            tokenizer_name TEXT NOT NULL, settings TEXT NOT NULL, settings_hash TEXT NOT NULL,
            context INTEGER NOT NULL, rows INTEGER, tokens INTEGER, statistics TEXT,
            path TEXT, size_bytes INTEGER, {_WORK}, {_TIMES},
            UNIQUE (dataset_id, tokenizer_name, settings_hash));

        CREATE TABLE activation_sets (
            id TEXT PRIMARY KEY, model_id TEXT REFERENCES models(id) ON DELETE SET NULL,
            tokenization_id TEXT REFERENCES tokenizations(id) ON DELETE SET NULL,
            model_format TEXT, layers TEXT, hooks TEXT, dtype TEXT, container TEXT,
            n_tokens INTEGER, batch_size INTEGER, top_k INTEGER, statistics TEXT,
            path TEXT, size_bytes INTEGER, {_WORK}, {_TIMES});

        CREATE TABLE trainings (
            id TEXT PRIMARY KEY, name TEXT NOT NULL,
            parent_id TEXT REFERENCES trainings(id) ON DELETE SET NULL,
            model_id TEXT REFERENCES models(id) ON DELETE SET NULL, model_format TEXT,
            activation_set_id TEXT REFERENCES activation_sets(id) ON DELETE SET NULL,
            encoder_type TEXT NOT NULL, architecture TEXT NOT NULL, config TEXT NOT NULL,
            layer INTEGER NOT NULL, hook TEXT NOT NULL, current_step INTEGER NOT NULL DEFAULT 0,
            total_steps INTEGER, tokens_seen INTEGER NOT NULL DEFAULT 0, latest_loss REAL,
            latest_l0 REAL, latest_dead INTEGER, latest_ev REAL, sae_id TEXT,
            path TEXT, size_bytes INTEGER, started_at TEXT, ended_at TEXT, {_WORK}, {_TIMES});

        CREATE TABLE training_datasets (
            training_id TEXT NOT NULL REFERENCES trainings(id) ON DELETE CASCADE,
            tokenization_id TEXT REFERENCES tokenizations(id) ON DELETE SET NULL,
            weight REAL NOT NULL DEFAULT 1, {_TIMES},
            PRIMARY KEY (training_id, tokenization_id));

        CREATE TABLE training_metrics (
            training_id TEXT NOT NULL REFERENCES trainings(id) ON DELETE CASCADE,
            step INTEGER NOT NULL, layer INTEGER NOT NULL, hook TEXT NOT NULL,
            tokens INTEGER, loss REAL, reconstruction REAL, sparsity REAL, auxiliary REAL,
            ghost REAL, l0 REAL, dead INTEGER, explained_variance REAL, learning_rate REAL,
            grad_norm REAL, k REAL, threshold REAL, tokens_per_s REAL, gpu_percent REAL, {_TIMES},
            PRIMARY KEY (training_id, step, layer, hook)) WITHOUT ROWID;

        CREATE TABLE checkpoints (
            id TEXT PRIMARY KEY,
            training_id TEXT NOT NULL REFERENCES trainings(id) ON DELETE CASCADE,
            step INTEGER NOT NULL, loss REAL, l0 REAL, is_best INTEGER NOT NULL DEFAULT 0,
            is_pinned INTEGER NOT NULL DEFAULT 0, verified INTEGER NOT NULL DEFAULT 0,
            path TEXT NOT NULL, size_bytes INTEGER, {_TIMES}, UNIQUE (training_id, step));

        CREATE TABLE saes (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, origin TEXT NOT NULL,
            training_id TEXT REFERENCES trainings(id) ON DELETE SET NULL,
            checkpoint_step INTEGER, repo_id TEXT,
            model_id TEXT REFERENCES models(id) ON DELETE SET NULL, model_name TEXT,
            model_format TEXT, layer INTEGER, hook_in TEXT, hook_out TEXT,
            encoder_type TEXT NOT NULL, architecture TEXT NOT NULL, d_in INTEGER NOT NULL,
            d_out INTEGER NOT NULL, n_latents INTEGER NOT NULL, dtype TEXT, normalisation TEXT,
            source_format TEXT, weights_hash TEXT, config TEXT, evaluation TEXT,
            is_favorite INTEGER NOT NULL DEFAULT 0, path TEXT NOT NULL, size_bytes INTEGER,
            {_WORK}, {_TIMES});

        CREATE TABLE feature_sets (
            id TEXT PRIMARY KEY, sae_id TEXT NOT NULL REFERENCES saes(id) ON DELETE CASCADE,
            tokenization_id TEXT REFERENCES tokenizations(id) ON DELETE SET NULL,
            config TEXT NOT NULL, n_tokens INTEGER, n_live INTEGER, store_hash TEXT,
            summary TEXT, path TEXT, size_bytes INTEGER, {_WORK}, {_TIMES});

        CREATE TABLE features (
            id INTEGER PRIMARY KEY,
            sae_id TEXT NOT NULL REFERENCES saes(id) ON DELETE CASCADE,
            feature_index INTEGER NOT NULL, label TEXT, label_id TEXT, notes TEXT,
            is_favorite INTEGER NOT NULL DEFAULT 0, is_hidden INTEGER NOT NULL DEFAULT 0,
            {_TIMES}, UNIQUE (sae_id, feature_index));

        CREATE TABLE feature_labels (
            id TEXT PRIMARY KEY, sae_id TEXT NOT NULL REFERENCES saes(id) ON DELETE CASCADE,
            feature_index INTEGER NOT NULL, text TEXT NOT NULL CHECK(length(text) <= 512),
            source TEXT NOT NULL, method TEXT, model TEXT, score REAL, score_n INTEGER, {_TIMES});
        CREATE INDEX labels_of_feature ON feature_labels(sae_id, feature_index);

        CREATE TABLE feature_statistics (
            id INTEGER PRIMARY KEY,
            feature_set_id TEXT NOT NULL REFERENCES feature_sets(id) ON DELETE CASCADE,
            feature_index INTEGER NOT NULL, count INTEGER NOT NULL, frequency REAL,
            active_samples INTEGER, max REAL, mean REAL, top_tokens TEXT, flags TEXT,
            positive_tokens TEXT, example TEXT, {_TIMES},
            UNIQUE (feature_set_id, feature_index));
        CREATE INDEX statistics_by_frequency ON feature_statistics(feature_set_id, frequency);
        CREATE INDEX statistics_by_max ON feature_statistics(feature_set_id, max);
        CREATE INDEX statistics_by_mean ON feature_statistics(feature_set_id, mean);

        CREATE TABLE feature_lists (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT, {_TIMES});
        CREATE TABLE feature_list_items (
            list_id TEXT NOT NULL REFERENCES feature_lists(id) ON DELETE CASCADE,
            sae_id TEXT NOT NULL REFERENCES saes(id) ON DELETE CASCADE,
            feature_index INTEGER NOT NULL, note TEXT, position REAL, {_TIMES},
            PRIMARY KEY (list_id, sae_id, feature_index));
        CREATE TABLE feature_analyses (
            sae_id TEXT NOT NULL REFERENCES saes(id) ON DELETE CASCADE,
            feature_index INTEGER NOT NULL, kind TEXT NOT NULL, key_hash TEXT NOT NULL,
            result TEXT, {_TIMES}, PRIMARY KEY (sae_id, feature_index, kind, key_hash));

        CREATE TABLE steering_runs (
            id TEXT PRIMARY KEY, model_id TEXT REFERENCES models(id) ON DELETE SET NULL,
            sae_id TEXT REFERENCES saes(id) ON DELETE SET NULL, mode TEXT NOT NULL,
            prompt TEXT NOT NULL, config TEXT NOT NULL, seed INTEGER, outputs TEXT,
            metrics TEXT, duration REAL, note TEXT, is_favorite INTEGER NOT NULL DEFAULT 0,
            {_WORK}, {_TIMES});

        CREATE TABLE templates (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, description TEXT,
            config TEXT NOT NULL, is_favorite INTEGER NOT NULL DEFAULT 0,
            is_builtin INTEGER NOT NULL DEFAULT 0, {_TIMES}, UNIQUE (kind, name))
        """,
    )
    db.table("features").enable_fts(["label", "notes"], create_triggers=True)
    db.table("feature_statistics").enable_fts(
        ["top_tokens", "positive_tokens"], create_triggers=True
    )
    db.table("datasets").enable_fts(["name", "description"], create_triggers=True)


@migrations()
def hub_formats_and_activation_sets(db: Database) -> None:
    """Commits and licences of repositories, model formats by name, named activation sets.

    Formats were names of torch types until now; activation sets could not be made before.
    """
    for table, column in (
        ("datasets", "commit_sha TEXT"),
        ("datasets", "is_indexed INTEGER NOT NULL DEFAULT 0"),
        ("models", "commit_sha TEXT"),
        ("models", "licence TEXT"),
        ("models", "report TEXT"),
        ("activation_sets", "name TEXT NOT NULL DEFAULT ''"),
        ("activation_sets", "config TEXT NOT NULL DEFAULT '{}'"),
    ):
        db.conn.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    for table, column in (
        ("models", "format"),
        ("trainings", "model_format"),
        ("saes", "model_format"),
    ):
        for old, new in (("float32", "fp32"), ("bfloat16", "bf16"), ("float16", "fp16")):
            db.conn.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", [new, old])


@migrations()
def groups_of_trainings(db: Database) -> None:
    """Trainings that share one pass over the text."""
    db.conn.execute("ALTER TABLE trainings ADD COLUMN group_id TEXT")


@migrations()
def training_seconds(db: Database) -> None:
    """Seconds of training behind each metric row; rows written before have none."""
    db.conn.execute("ALTER TABLE training_metrics ADD COLUMN train_seconds REAL")


@migrations()
def held_out_figures(db: Database) -> None:
    """What a run's steps and checkpoints reached on held-out text; NULL where not measured."""
    for table in ("training_metrics", "checkpoints"):
        for column in ("ev REAL", "l0 REAL", "dead REAL", "n INTEGER"):
            db.conn.execute(f"ALTER TABLE {table} ADD COLUMN heldout_{column}")
    db.conn.execute(
        "CREATE INDEX measured_on_held_out ON training_metrics(training_id, step) "
        "WHERE heldout_n IS NOT NULL"
    )


@migrations()
def nearest_decoder_rows(db: Database) -> None:
    """The feature whose decoder row is nearest, and the cosine; sets found before have none."""
    for column in ("nearest INTEGER", "nearest_cosine REAL"):
        db.conn.execute(f"ALTER TABLE feature_statistics ADD COLUMN {column}")


@migrations()
def columns_of_the_feature_table(db: Database) -> None:
    """More statistics of features, revisions that sort keys follow, saved views.

    Sets found before have no value in the new columns. The word indices follow only the columns
    that they hold, so that writing a figure into many rows does not write their words again.
    """
    for column in (
        "mean_all REAL",
        "skew REAL",
        "kurtosis REAL",
        "top_token TEXT",
        "top_token_share REAL",
        "negative_tokens TEXT",
    ):
        db.conn.execute(f"ALTER TABLE feature_statistics ADD COLUMN {column}")
    for table, words in (
        ("features", ("label", "notes")),
        ("feature_statistics", ("top_tokens", "positive_tokens")),
    ):
        names = ", ".join(words)
        old, new = (", ".join(f"{row}.{word}" for word in words) for row in ("old", "new"))
        db.conn.execute(f"DROP TRIGGER {table}_au")
        db.conn.execute(
            f"CREATE TRIGGER {table}_au AFTER UPDATE OF {names} ON {table} BEGIN "
            f"INSERT INTO {table}_fts ({table}_fts, rowid, {names}) "
            f"VALUES('delete', old.rowid, {old}); "
            f"INSERT INTO {table}_fts (rowid, {names}) VALUES (new.rowid, {new}); END"
        )
    _create(
        db,
        f"""
        CREATE TABLE feature_revisions (
            scope TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE feature_views (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL, {_TIMES});
        CREATE INDEX items_of_feature ON feature_list_items(sae_id, feature_index)
        """,
    )
    for table, event, row in (
        ("feature_statistics", "UPDATE", "new.feature_set_id"),
        ("features", "INSERT", "new.sae_id"),
        ("features", "UPDATE", "new.sae_id"),
        ("feature_labels", "INSERT", "new.sae_id"),
        ("feature_labels", "UPDATE", "new.sae_id"),
        ("feature_labels", "DELETE", "old.sae_id"),
        ("feature_list_items", "INSERT", "new.sae_id"),
        ("feature_list_items", "DELETE", "old.sae_id"),
    ):
        db.conn.execute(
            f"CREATE TRIGGER {table}_revised_by_{event.lower()} AFTER {event} ON {table} BEGIN "
            f"UPDATE feature_revisions SET revision = revision + 1 WHERE scope = {row}; "
            # no ON CONFLICT: that of the statement that fires a trigger overrides it
            f"INSERT INTO feature_revisions SELECT {row}, 1 WHERE NOT EXISTS "
            f"(SELECT 1 FROM feature_revisions WHERE scope = {row}); END"
        )


@migrations()
def effects_of_ablation(db: Database) -> None:
    """What ablating each feature does; null until it is measured."""
    for column in ("ablation_ce", "ablation_kl", "ablation_percentile", "ablation_p"):
        db.conn.execute(f"ALTER TABLE feature_statistics ADD COLUMN {column} REAL")


@migrations()
def scores_of_labels(db: Database) -> None:
    """What a label's score is made of, who wrote it, what was asked of a model; and beside each
    feature the score of its chosen label, and whether the user chose it."""
    for column in ("author TEXT", "scores TEXT", "prompt TEXT"):
        db.conn.execute(f"ALTER TABLE feature_labels ADD COLUMN {column}")
    for column in ("label_score REAL", "label_pinned INTEGER NOT NULL DEFAULT 0"):
        db.conn.execute(f"ALTER TABLE features ADD COLUMN {column}")


@migrations()
def chosen_feature_sets(db: Database) -> None:
    """When a user last chose a feature set among those of an SAE; none is chosen yet."""
    db.conn.execute("ALTER TABLE feature_sets ADD COLUMN chosen_at TEXT")


@migrations()
def colours_of_features(db: Database) -> None:
    """The colour that the user marked a feature with; none is marked yet."""
    db.conn.execute("ALTER TABLE features ADD COLUMN colour TEXT")


@migrations()
def steering_vectors(db: Database) -> None:
    """Raw directions: made from prompts or a feature's text, or imported; none is there yet."""
    _create(
        db,
        f"""
        CREATE TABLE steering_vectors (
            id TEXT PRIMARY KEY, name TEXT NOT NULL CHECK(length(name) BETWEEN 1 AND 500),
            group_id TEXT NOT NULL,
            model_id TEXT REFERENCES models(id) ON DELETE SET NULL,
            model_name TEXT NOT NULL, model_hash TEXT, layer INTEGER NOT NULL, hook TEXT NOT NULL,
            method TEXT NOT NULL, width INTEGER NOT NULL, norm REAL NOT NULL,
            sae_id TEXT REFERENCES saes(id) ON DELETE SET NULL, feature_index INTEGER,
            report TEXT, notes TEXT, path TEXT NOT NULL, size_bytes INTEGER, {_TIMES});
        CREATE INDEX vectors_of_model ON steering_vectors(model_id, layer)
        """,
    )


@migrations()
def kept_sort_keys(db: Database) -> None:
    """Sort keys of a feature set beside its rows; and the hidden features found without the rest.

    The checksum is a CRC-32 of the data. Sets found before keep theirs when they are first opened.
    """
    _create(
        db,
        """
        CREATE TABLE feature_keys (
            feature_set_id TEXT NOT NULL REFERENCES feature_sets(id) ON DELETE CASCADE,
            name TEXT NOT NULL, revision INTEGER NOT NULL, dtype TEXT NOT NULL,
            checksum INTEGER NOT NULL, data BLOB NOT NULL,
            PRIMARY KEY (feature_set_id, name));
        CREATE INDEX hidden_features ON features(sae_id) WHERE is_hidden = 1
        """,
    )


@migrations()
def memory_of_trainings(db: Database) -> None:
    """What memory the process held at each metric row; rows written before have none."""
    db.conn.execute("ALTER TABLE training_metrics ADD COLUMN memory_bytes INTEGER")


@migrations()
def intervals_on_held_out_text(db: Database) -> None:
    """95 % intervals and documents of the figures on held-out text, and how often latents fire
    there; rows written before have none."""
    bounds = [f"{name}_{end} REAL" for name in ("ev", "l0") for end in ("low", "high")]
    for table in ("training_metrics", "checkpoints"):
        for column in ("documents INTEGER", *bounds):
            db.conn.execute(f"ALTER TABLE {table} ADD COLUMN heldout_{column}")
    shares = ("below_1e_6", "below_1e_5", "above_1e_2", "above_1e_1")
    for column in (
        "dead_bound REAL",
        *(f"density_{share} REAL" for share in shares),
        "density_histogram TEXT",
    ):
        db.conn.execute(f"ALTER TABLE training_metrics ADD COLUMN heldout_{column}")

// adapter.d.cts

/** An open transaction of a {@link MemoryDatabase}. */
declare class MemoryTransaction {
    /** False from its end on. */
    open: boolean;
}
/**
 * Locks in this process's memory, for unit tests: pass one to as many `fromMemory` as there would be processes. Its clock
 * begins at `Date.now()` when it is made, and goes on as `performance.now()` does, so fake timers set and move it.
 */
declare class MemoryDatabase {
    #private;
    /** Gives guards and `within` something to hold on to. Only what locks do in it is undone if `body` rejects. */
    transaction<T>(body: (tx: MemoryTransaction) => Promise<T>): Promise<T>;
}

/** Text and values in ... */
interface Statement {
    readonly text: string;
    readonly values: readonly unknown[];
    /** The same text has the same name, for drivers that prepare statements; absent if the text hardly ever recurs. */
    readonly name?: string;
    /** false: a power failure may undo it, so that no adapter needs to wait for the disk. */
    readonly durable?: boolean;
    /** True: the text is the caller's, and rows come back in whatever shape the caller has set up. Else in the driver's own. */
    readonly callers?: boolean;
}
/** ... rows out. */
interface Result {
    readonly rows: readonly Record<string, unknown>[];
    /** MySQL and MariaDB: what `last_insert_id(expression)` was set to; absent or 0 when no row was reached. */
    readonly insertId?: bigint | number | string | undefined;
    /** MySQL and MariaDB: rows that an UPDATE matched, or only those it changed, as the client was set up. */
    readonly affectedRows?: bigint | number | undefined;
    /** Whether a transaction was open after the statement, if the driver passes on what the server says. */
    readonly inTransaction?: boolean | undefined;
}
type SqlEngine = 'postgres' | 'mysql' | 'sqlite';
/** One connection, reserved until the function it was given to ends. */
interface Connection {
    query(statement: Statement): Promise<Result>;
}
/** A connection kept for as long as this process holds locks by it. It does not keep the process alive. */
interface DedicatedConnection extends Connection {
    /** The server's process or thread id as the driver was told it: a pooler in between betrays itself by another one. */
    readonly backendId: number | undefined;
    /** Calls `listener` with the payload of every notification; absent if the driver does not pass them on. */
    onNotification?(listener: (payload: string) => void): void;
    /** Calls `listener` once, when the connection is gone for whatever reason but `close`. */
    onLost(listener: (cause: unknown) => void): void;
    /** Calls `listener` with what is wrong with the pool that lends this connection, as far as that shows. */
    onWarning?(listener: (message: string) => void): void;
    close(): Promise<void>;
    /** It does not answer: ends it, also for others that it is shared with. */
    drop?(): Promise<void>;
}
/** What a driver or an ORM has to offer, and the type `Tx` of its open transactions, which `guard` accepts. */
interface SqlAdapter<Tx> {
    readonly engine: SqlEngine;
    /** True if `queryIn` answers synchronously. */
    readonly synchronous?: boolean;
    /** True if there is one connection for all: nothing can be asked beside an open transaction. */
    readonly single?: boolean;
    /** MySQL and MariaDB: results in the caller's transactions have no `insertId`, and `affectedRows` counts the matched. */
    readonly tellsNoInsertId?: boolean;
    /** Runs one statement that commits by itself. */
    query(statement: Statement): Promise<Result>;
    /**
     * Runs one statement in the caller's open transaction. Synchronous drivers answer (and throw) synchronously, so that a
     * guard works in their synchronous transactions. Throws INVALID_ARGUMENT for a handle that is no open transaction.
     */
    queryIn(tx: Tx, statement: Statement): Result | Promise<Result>;
    /**
     * SQLite: an object that belongs to this transaction alone. Absent where one handle serves all transactions, so that nothing
     * tells whether the one that is open now is the one of before.
     */
    transactionOf?(tx: Tx): object | undefined;
    /** Runs several statements on one connection. */
    reserve<T>(use: (connection: Connection) => Promise<T>): Promise<T>;
    /**
     * PostgreSQL: passes on the notifications of a channel, on a connection that the driver keeps up by itself, until the
     * function that it resolves with is called. Not needed where `dedicate` gives connections that pass them on.
     */
    listen?(channel: string, listener: (payload: string) => void): Promise<() => Promise<void>>;
    /** Opens a connection of rowlock's own beside the pool, with the pool's settings, if the driver can tell when it breaks. */
    dedicate?(): Promise<DedicatedConnection>;
    /** Keeps a connection of the pool, where none can be opened; not if that would be the pool's only one. */
    borrow?(): Promise<DedicatedConnection>;
}
interface SessionOptions {
    /**
     * `fromPg` or `fromMysql2` of the same database, for the connection of rowlock's own, where the adapter can open none, or where
     * its pool goes through a proxy that shares sessions.
     */
    readonly sessions?: Pick<SqlAdapter<never>, 'dedicate'>;
}
/** The in-memory engine has no SQL to run. */
interface MemoryAdapter {
    readonly engine: 'memory';
    readonly database: MemoryDatabase;
}

export { MemoryDatabase, MemoryTransaction };
export type { MemoryAdapter, SessionOptions, SqlAdapter, SqlEngine };

// adapters/better-sqlite3.d.cts

import { SqlAdapter } from '../index.cjs';
import { SqliteHandle } from '../sqlite.cjs';

/** A Database of better-sqlite3. */
interface BetterSqlite3Database extends SqliteHandle {
    readonly inTransaction: boolean;
}
/** SQLite through `better-sqlite3`. Guards take the database itself while a transaction is open on it. */
declare function fromBetterSqlite3(database: BetterSqlite3Database): SqlAdapter<BetterSqlite3Database>;

export { fromBetterSqlite3 };
export type { BetterSqlite3Database };

// adapters/drizzle.d.cts

import { SessionOptions } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** A Drizzle database of node-postgres, postgres.js, mysql2 or better-sqlite3. */
interface DrizzleDatabase<Tx> {
    transaction(use: (tx: Tx) => never): unknown;
}
/** What guards take: transactions. With better-sqlite3 also the database itself, once `begin immediate` has been run on it. */
type DrizzleTransaction<Db, Tx> = Db extends {
    all(query: string): unknown[];
} ? Tx | Db : Tx;
/**
 * PostgreSQL, MySQL, MariaDB or SQLite through Drizzle. Guards take its transactions. With better-sqlite3 they work, and
 * throw, synchronously, as its transactions do.
 */
declare function fromDrizzle<Db, Tx>(db: Db & DrizzleDatabase<Tx>, options?: SessionOptions): SqlAdapter<DrizzleTransaction<Db, Tx>>;

export { fromDrizzle };
export type { DrizzleDatabase, DrizzleTransaction };

// adapters/knex.d.cts

import { SessionOptions } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

interface Raw {
    readonly client: KnexClient;
}
interface KnexClient {
    readonly dialect?: unknown;
    readonly config?: object;
    raw(sql: string, bindings: readonly unknown[]): RawQuery;
}
interface RawQuery extends PromiseLike<unknown> {
    options(options: object): unknown;
    toQuery(): string;
    toSQL(): {
        toNative(): {
            sql: string;
        };
    };
}
/** A Knex.Transaction. */
interface KnexTransaction extends Raw {
    isCompleted(): boolean;
}
/** A Knex for PostgreSQL, MySQL, MariaDB or SQLite. */
interface KnexDatabase extends Raw {
    raw(sql: string): unknown;
    transaction(use: (tx: KnexTransaction) => Promise<void>): Promise<unknown>;
}
/**
 * PostgreSQL, MySQL, MariaDB or SQLite through Knex. Guards take its transactions. On SQLite, set a busy_timeout of a few
 * milliseconds in `pool.afterCreate`: rowlock waits for the file itself, the driver would block the event loop for seconds.
 */
declare function fromKnex(knex: KnexDatabase, options?: SessionOptions): SqlAdapter<KnexTransaction>;

export { fromKnex };
export type { KnexDatabase, KnexTransaction };

// adapters/kysely.d.cts

import { SqlEngine } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** Runs compiled queries: a Kysely, or a Transaction of one. */
interface Executor {
    executeQuery(query: never): Promise<{
        readonly rows: unknown[];
        readonly insertId?: bigint | undefined;
        readonly numAffectedRows?: bigint | undefined;
    }>;
    withoutPlugins(): unknown;
}
/** A Kysely of 0.28 or 0.29, for PostgreSQL, MySQL or SQLite. */
interface KyselyDatabase<Tx> extends Executor {
    readonly isTransaction: boolean;
    getExecutor(): {
        readonly adapter: object;
    };
    transaction(): {
        execute<T>(use: (tx: Tx) => Promise<T>): Promise<T>;
    };
    connection(): {
        execute<T>(use: (db: Executor) => Promise<T>): Promise<T>;
    };
}
interface KyselyOptions {
    /** Needed only for a dialect whose adapter class is not one of Kysely's own, nor named after it. */
    readonly engine?: SqlEngine;
    /** `fromPg` or `fromMysql2` of the same database, for the connection that `takeover: 'session'` keeps. */
    readonly sessions?: Pick<SqlAdapter<never>, 'dedicate'>;
}
/** PostgreSQL, MySQL, MariaDB or SQLite through Kysely. Guards take its transactions. */
declare function fromKysely<Tx extends {
    readonly isTransaction: boolean;
}>(db: KyselyDatabase<Tx>, options?: KyselyOptions): SqlAdapter<Tx>;

export { fromKysely };
export type { KyselyDatabase, KyselyOptions };

// adapters/memory.d.cts

import { MemoryDatabase } from '../adapter.cjs';
import { MemoryAdapter } from '../index.cjs';
export { MemoryTransaction } from '../adapter.cjs';

/** Locks in memory, for unit tests. Adapters on one MemoryDatabase share their locks; each makes its own by default. */
declare function fromMemory(database?: MemoryDatabase): MemoryAdapter;

export { MemoryDatabase, fromMemory };

// adapters/mikro-orm.d.cts

import { SessionOptions, SqlEngine } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** The EntityManager of a transaction of MikroORM. */
interface MikroOrmTransaction {
    isInTransaction(): boolean;
    getTransactionContext(): unknown;
}
/** A MikroORM for PostgreSQL, MySQL, MariaDB or SQLite. */
interface MikroOrm {
    readonly em: {
        getConnection(type: 'write'): object;
        getPlatform(): {
            formatQuery(text: string, values: readonly unknown[]): string;
        };
    };
}
interface MikroOrmOptions extends SessionOptions {
    /** Needed only for a driver that is not MikroORM's own, or whose class names were minified. */
    readonly engine?: SqlEngine;
}
/**
 * PostgreSQL, MySQL, MariaDB or SQLite through MikroORM. Guards take the EntityManager that `em.transactional` gave to its
 * callback; within that callback `orm.em` is as good. On SQLite, set a busy_timeout of a few milliseconds in
 * `pool.afterCreate`: rowlock waits for the file itself, the driver would block the event loop for seconds.
 */
declare function fromMikroOrm(orm: MikroOrm, options?: MikroOrmOptions): SqlAdapter<MikroOrmTransaction>;

export { fromMikroOrm };
export type { MikroOrm, MikroOrmOptions, MikroOrmTransaction };

// adapters/mysql2.d.cts

import { SqlAdapter } from '../index.cjs';

interface Mysql2Queries {
    query(options: {
        sql: string;
        values: unknown[];
    }): Promise<[unknown, unknown]>;
}

/** A connection of mysql2/promise on which the caller has begun a transaction. */
interface Mysql2Transaction extends Mysql2Queries {
    beginTransaction(): Promise<void>;
}
interface Mysql2Connection extends Mysql2Transaction {
    release(): void;
    destroy(): void;
    readonly threadId: number;
    on(event: string, listener: (cause?: unknown) => void): unknown;
}
/** A pool of mysql2/promise. */
interface Mysql2Pool {
    query(options: {
        sql: string;
        values: unknown[];
    }): Promise<[unknown, unknown]>;
    getConnection(): Promise<Mysql2Connection>;
}
interface Mysql2Options {
    /**
     * A pool that reaches the server directly, for the connection of rowlock's own, when `pool` goes through a proxy. Default:
     * `pool`.
     */
    readonly sessions?: Mysql2Pool;
}
/** MySQL and MariaDB through `mysql2/promise`. Guards take the connection on which the caller has begun a transaction. */
declare function fromMysql2(pool: Mysql2Pool, options?: Mysql2Options): SqlAdapter<Mysql2Transaction>;

export { fromMysql2 };
export type { Mysql2Options, Mysql2Pool, Mysql2Transaction };

// adapters/node-sqlite.d.cts

import { SqlAdapter } from '../index.cjs';
import { SqliteHandle } from '../sqlite.cjs';

/** A DatabaseSync of node:sqlite, of Node 22.16, 24 or later. */
interface NodeSqliteDatabase extends SqliteHandle {
    readonly isTransaction: boolean;
}
/** SQLite through `node:sqlite`. Guards take the database itself while a transaction is open on it. */
declare function fromNodeSqlite(database: NodeSqliteDatabase): SqlAdapter<NodeSqliteDatabase>;

export { fromNodeSqlite };
export type { NodeSqliteDatabase };

// adapters/pg.d.cts

import { SqlAdapter } from '../index.cjs';

interface PgQuery {
    readonly text: string;
    readonly values: unknown[];
    readonly name?: string;
    readonly types?: {
        getTypeParser(): (value: string) => unknown;
    };
}
/** A pg.PoolClient or pg.Client on which the caller has said BEGIN. */
interface PgTransaction {
    query(query: PgQuery): Promise<{
        rows: Record<string, unknown>[];
    }>;
    /** What the server said last: idle, in a transaction, or in a failed one. Since pg 8.21. */
    getTransactionStatus?(): 'I' | 'T' | 'E' | null;
}

interface PgPoolClient extends PgTransaction {
    release(destroy?: boolean): void;
    on(event: 'error', listener: (cause: unknown) => void): unknown;
    off(event: 'error', listener: (cause: unknown) => void): unknown;
}
/** A pg.Pool. */
interface PgPool extends PgTransaction {
    connect(): Promise<PgPoolClient>;
}
interface PgOptions {
    /**
     * A pool that reaches the server directly, for the connection of rowlock's own, when `pool` goes through a pooler. Default:
     * `pool`.
     */
    readonly sessions?: PgPool;
}
/** PostgreSQL through `pg`. Guards take the client on which the caller has begun a transaction. */
declare function fromPg(pool: PgPool, options?: PgOptions): SqlAdapter<PgTransaction>;

export { fromPg };
export type { PgOptions, PgPool, PgTransaction };

// adapters/pglite.d.cts

import { SqlAdapter } from '../index.cjs';

interface PgliteOptions {
    readonly rowMode?: 'object';
    readonly parsers?: Record<number, (value: string) => unknown>;
}
/** A transaction of PGlite, as `pglite.transaction` passes it to its callback. */
interface PgliteTransaction {
    query(query: string, values?: unknown[], options?: PgliteOptions): Promise<{
        rows: unknown[];
    }>;
    rollback(): Promise<void>;
    readonly closed: boolean;
}
/** A PGlite. */
interface Pglite {
    query(query: string, values?: unknown[], options?: PgliteOptions): Promise<{
        rows: unknown[];
    }>;
    runExclusive<T>(use: () => Promise<T>): Promise<T>;
    transaction<T>(use: (tx: PgliteTransaction) => Promise<T>): Promise<T>;
    listen(channel: string, callback: (payload: string) => void): Promise<() => Promise<void>>;
}
/**
 * PostgreSQL within this process, through PGlite. Guards take its transactions. It has one session: a lock awaited inside
 * its own transaction would wait for itself, and ends in a DATABASE error after `statementTimeout`.
 */
declare function fromPglite(pglite: Pglite): SqlAdapter<PgliteTransaction>;

export { fromPglite };
export type { Pglite, PgliteTransaction };

// adapters/postgres-js.d.cts

import { SessionOptions } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** What of its settings changes rows on their way here. */
interface PostgresJsOptions {
    readonly transform?: {
        readonly column?: {
            readonly from?: unknown;
            readonly to?: unknown;
        };
        readonly value?: {
            readonly from?: unknown;
        };
        readonly row?: {
            readonly from?: unknown;
        };
    };
    readonly parsers?: Readonly<Record<number, unknown>>;
}

interface Sql {
    unsafe(query: string, parameters?: unknown[], options?: {
        prepare?: boolean;
    }): PromiseLike<readonly object[]>;
}
/** A TransactionSql of postgres.js, as `sql.begin` passes it to its callback. */
interface PostgresJsTransaction extends Sql {
    savepoint<T>(use: (tx: PostgresJsTransaction) => Promise<T>): Promise<unknown>;
}
/** What `postgres()` answers. */
interface PostgresJs extends Sql {
    begin<T>(use: (tx: PostgresJsTransaction) => Promise<T>): Promise<unknown>;
    listen(channel: string, listener: (payload: string) => void): Promise<{
        unlisten(): Promise<void>;
    }>;
    readonly options: PostgresJsOptions;
}
/** PostgreSQL through `postgres` (postgres.js). Guards take what `sql.begin` gives to its callback, while that runs. */
declare function fromPostgresJs(sql: PostgresJs, options?: SessionOptions): SqlAdapter<PostgresJsTransaction>;

export { fromPostgresJs };
export type { PostgresJs, PostgresJsTransaction };

// adapters/prisma.d.cts

import { SessionOptions, SqlEngine } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** The client of an interactive transaction of Prisma. */
interface PrismaTransaction {
    $queryRawUnsafe<T = unknown>(text: string, ...values: unknown[]): Promise<T>;
    $executeRawUnsafe(text: string, ...values: unknown[]): Promise<number>;
    /** Which sets it apart from a client. */
    readonly $connect?: never;
}
/** A PrismaClient of Prisma 7 with a driver adapter for PostgreSQL, MySQL, MariaDB or SQLite. */
interface PrismaClient extends Omit<PrismaTransaction, '$connect'> {
    $connect(): Promise<void>;
    $transaction<T>(use: (tx: PrismaTransaction) => Promise<T>, options?: {
        readonly maxWait?: number;
        readonly timeout?: number;
    }): Promise<T>;
}
interface PrismaOptions extends SessionOptions {
    /** Needed only if it cannot be read off the client's driver adapter. */
    readonly engine?: SqlEngine;
}
/**
 * PostgreSQL, MySQL, MariaDB or SQLite through Prisma 7. Guards take the client of an interactive transaction. On SQLite,
 * give the driver adapter a `timeout` of a few milliseconds: rowlock waits for the file itself, the driver would block the
 * event loop for seconds.
 */
declare function fromPrisma(given: PrismaClient, options?: PrismaOptions): SqlAdapter<PrismaTransaction>;

export { fromPrisma };
export type { PrismaClient, PrismaOptions, PrismaTransaction };

// adapters/sequelize.d.cts

import { SessionOptions } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** A Transaction of Sequelize 6. */
interface SequelizeTransaction {
    commit(): Promise<void>;
    rollback(): Promise<void>;
    readonly afterCommit: object;
}
/** A Sequelize 6 for PostgreSQL, MySQL, MariaDB or SQLite. */
interface SequelizeInstance {
    getDialect(): string;
    query(sql: string, options: never): Promise<[unknown, unknown]>;
    transaction<T>(options: never, use: (tx: never) => PromiseLike<T>): Promise<T>;
}
/** PostgreSQL, MySQL, MariaDB or SQLite through Sequelize. Guards take its transactions. */
declare function fromSequelize(sequelize: SequelizeInstance, options?: SessionOptions): SqlAdapter<SequelizeTransaction>;

export { fromSequelize };
export type { SequelizeInstance, SequelizeTransaction };

// adapters/typeorm.d.cts

import { SessionOptions } from '../adapter.cjs';
import { SqlAdapter } from '../index.cjs';

/** A QueryRunner of TypeORM. */
interface TypeormQueryRunner {
    readonly isTransactionActive: boolean;
    readonly isReleased: boolean;
    query(text: string, values: unknown[], structured: true): Promise<{
        readonly raw: unknown;
        readonly records: unknown;
    }>;
    release(): Promise<void>;
}
/** The EntityManager of a transaction, or the QueryRunner that has begun one. */
type TypeormTransaction = TypeormQueryRunner | {
    readonly queryRunner?: TypeormQueryRunner | undefined;
};
/** A DataSource for PostgreSQL, MySQL, MariaDB or better-sqlite3. */
interface TypeormDataSource {
    readonly options: {
        readonly type: string;
    };
    readonly driver: object;
    createQueryRunner(mode: 'master'): TypeormQueryRunner;
}
/** PostgreSQL, MySQL, MariaDB or SQLite through TypeORM. Guards take the EntityManager that a transaction was given. */
declare function fromTypeorm(dataSource: TypeormDataSource, options?: SessionOptions): SqlAdapter<TypeormTransaction>;

export { fromTypeorm };
export type { TypeormDataSource, TypeormQueryRunner, TypeormTransaction };

// frameworks/node-cron.d.cts

import { Duration, Locks } from '../index.cjs';

/** What node-cron asks whether a run is this process's. */
interface RunCoordinator {
    shouldRun(key: string, ttlMs: number): Promise<boolean>;
}
interface RunCoordinatorOptions {
    /**
     * For how long a fire counts as taken: longer than the clocks of the processes are apart. Default one day. `purge` takes off
     * what is past it.
     */
    readonly keepFor?: Duration | undefined;
    /** How long to wait for a process that is just taking it. Default 5 s. */
    readonly wait?: Duration | undefined;
}
/**
 * A RunCoordinator of node-cron, from 4.4 on: of all processes that share the database, each fire of a task runs in one. A fire
 * is known by the task's name and its time as the expression says it, so processes whose clocks differ mean the same one. At most once: what a
 * process has taken that is then killed does not run again. A task needs `{ name, distributed: true }`. If the database cannot
 * be asked, node-cron skips the fire, and says so.
 */
declare function createRunCoordinator(locks: Pick<Locks<never>, 'once'>, options?: RunCoordinatorOptions): RunCoordinator;

export { createRunCoordinator };
export type { RunCoordinator, RunCoordinatorOptions };

// index.d.cts

export { MemoryAdapter, SqlAdapter } from './adapter.cjs';
export { Adapter, CronOptions, Duration, Election, ElectionOptions, EveryOptions, ForceOptions, GuardedQuery, HeldLease, HolderInfo, InstanceOptions, Job, JobOptions, JobRun, Leader, Lease, LeaseJson, Leases, LockEvent, LockInfo, LockListener, LockOptions, Locks, Mode, OnceOptions, OnceOutcome, PendingLease, PendingLeaseOptions, PermitOptions, QueueState as QueueInfo, RunOptions, RunOutcome, Semaphore, SemaphoreOptions, Term, TransactionHold, TransactionLocks, TransactionOnceOptions, TransactionOptions, WithinOptions, createLocks } from './locks.cjs';

/**
 * Stable codes of {@link LockError}:
 *
 * - `LOCK_TIMEOUT`: the lock stayed held for the whole `wait`. Try again later.
 * - `QUEUE_FULL`: too many callers wait for the lock already (`maxWaiters`). Shed load, or try again later.
 * - `DEADLOCK`: the caller holds what it would wait for, so the wait would never end. Change the order of the calls.
 * - `LOCK_LOST`: the lease is no longer ours. Stop, roll back, start over with a new lease.
 * - `RESIGNED`: the reason of a term's signal: its leader resigns, or is asked to. Nothing is lost.
 * - `INVALID_ARGUMENT`: the call itself is wrong; nothing was changed.
 * - `NOT_MIGRATED`: the tables are missing. The message says which command makes them.
 * - `TRANSACTION_ABORTED`: the database ended the caller's transaction. Roll back and retry all of it.
 * - `UNSUPPORTED`: this engine, or what stands before it, cannot do that.
 * - `DATABASE`: the database or the way to it failed; `cause` is the driver's error. Not a statement about the lock.
 */
type LockErrorCode = 'LOCK_TIMEOUT' | 'QUEUE_FULL' | 'DEADLOCK' | 'LOCK_LOST' | 'RESIGNED' | 'INVALID_ARGUMENT' | 'NOT_MIGRATED' | 'TRANSACTION_ABORTED' | 'UNSUPPORTED' | 'DATABASE';
/** Every error of rowlock's own. Tell errors apart by `code`; `cause` keeps what led to it. */
declare class LockError extends Error {
    readonly name: string;
    readonly code: LockErrorCode;
    constructor(code: LockErrorCode, message: string, options?: {
        cause?: unknown;
    });
}
/** The lock was not free within `wait` milliseconds. */
declare class LockTimeoutError extends LockError {
    readonly name = "LockTimeoutError";
    readonly lock: string;
    constructor(lock: string, waitedMs: number, holder?: string);
}
/** So many callers wait for the lock already that no more may join them. Nothing was changed. */
declare class QueueFullError extends LockError {
    readonly name = "QueueFullError";
    readonly lock: string;
    constructor(lock: string, maxWaiters: number);
}
/**
 * The wait for the lock would never end: the caller itself keeps it from being free, or is the youngest of those who wait for
 * each other in a circle. It does not wait any more, and nothing else was changed. Release what you hold before you try again.
 */
declare class DeadlockError extends LockError {
    readonly name = "DeadlockError";
    readonly lock: string;
    /** Of those who wait for each other, the caller first: `holder: name -> name`, what each holds and what it waits for. */
    readonly circle: readonly string[];
    constructor(lock: string, reason: string, circle?: readonly string[]);
}
/** A lease that was ours is over: it ran out, was taken over, force-released or released. */
declare class LockLostError extends LockError {
    readonly name = "LockLostError";
    readonly lock: string;
    /** What the body of `run` resolved with, when it finished although its lease had been lost. */
    readonly result: unknown;
    constructor(lock: string, reason: string, options?: {
        cause?: unknown;
        result?: unknown;
    });
}
/** Why the signal of a leader's term aborts that does not lose its lease: it resigns by itself, or somebody has asked it to. */
declare class ResignedError extends LockError {
    readonly name = "ResignedError";
    readonly lock: string;
    /** By `requestResign`, in whichever process: it leads until its body has ended, or calls `term.resign()`. */
    readonly requested: boolean;
    constructor(lock: string, requested: boolean);
}
/** What a function of `once` gave cannot be kept for those who come later. It has run, and is not marked as done. */
declare class UnstorableResultError extends LockError {
    readonly name = "UnstorableResultError";
    readonly key: string;
    /** What it gave. */
    readonly result: unknown;
    constructor(key: string, cause: LockError, result: unknown);
}
/**
 * The database, or the way to it, failed. `failure` says what may be done about it:
 *
 * - `conflict`: the statement had no effect and may simply be repeated (serialization failure, deadlock, busy file).
 * - `unavailable`: nothing took effect, and the same may succeed a while later: a server that takes no writes while it fails
 *   over, one that is full for the moment, a pool that says that it has no free connection.
 * - `connection`: nobody knows whether the statement took effect. Only idempotent statements may be repeated.
 * - `other`: repeating it will not help.
 */
declare class DatabaseError extends LockError {
    readonly name = "DatabaseError";
    readonly failure: 'conflict' | 'unavailable' | 'connection' | 'other';
    constructor(failure: DatabaseError['failure'], message: string, options: {
        cause?: unknown;
    });
}
/**
 * Whether `error`, or one of its causes, says that the database gave up a transaction which may succeed when all of it is
 * retried: serialization failures, deadlocks, lock timeouts, a busy SQLite file.
 */
declare function isTransactionAborted(error: unknown): boolean;

export { DatabaseError, DeadlockError, LockError, LockLostError, LockTimeoutError, QueueFullError, ResignedError, UnstorableResultError, isTransactionAborted };
export type { LockErrorCode };

// locks.d.cts

import { SqlAdapter, MemoryAdapter, MemoryTransaction } from './adapter.cjs';

/** A lock that is held, or a semaphore of which permits are. */
interface LockState {
    readonly name: string;
    /** Of the first of its holders. */
    readonly owner: string;
    readonly token: bigint;
    readonly holder: string;
    readonly expiresInMs: number;
    /** Callers in its queue, of all processes. */
    readonly waiters: number;
    /** Of a semaphore it is shared. */
    readonly mode: 'exclusive' | 'shared';
    /** All of them, in the order of their tokens. */
    readonly holders: readonly HolderState[];
    /** Those who wait, in their order. */
    readonly queue: readonly QueueState[];
    /** Of a semaphore: how many it has. */
    readonly permits?: number;
}
interface HolderState {
    readonly owner: string;
    readonly token: bigint;
    readonly holder: string;
    /** The permits that it takes of a semaphore; 1 of a lock. */
    readonly weight: number;
    readonly expiresInMs: number;
}
/** Callers of one process who wait one behind the other, for the same. */
interface QueueState {
    readonly holder: string;
    readonly mode: 'exclusive' | 'shared';
    readonly weight: number;
    readonly waiters: number;
    /** For how long the first of them has been waiting. */
    readonly waitingMs: number;
}
/** A statement of the caller's, in the shape of Kysely's CompiledQuery or of pg's QueryConfig. */
interface CallerQuery {
    readonly text: string;
    readonly values: readonly unknown[];
}

/** Milliseconds, or a number with a unit: `'500ms'`, `'30s'`, `'5m'`, `'2h'`, `'7d'`. */
type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;

/** Shared with others who share it, or not at all. */
type Mode = 'exclusive' | 'shared';
/** How a lock is taken and kept. What is left out comes from `createLocks`, then from the defaults. */
interface LockOptions {
    /** `'shared'`: beside any number of others who share the lock, and nobody else. Default `'exclusive'`: beside nobody. */
    readonly mode?: Mode | undefined;
    /** How long a lease lives without a renewal. Default 30 s; from 10 ms to 24 days. */
    readonly ttl?: Duration | undefined;
    /** How long to wait for a lock that is held. Default 10 s; `Infinity` waits for ever. tryAcquire and tryRun never wait. */
    readonly wait?: Duration | undefined;
    /** Ends the wait: the call rejects with the signal's reason, and leaves nothing behind. */
    readonly signal?: AbortSignal | undefined;
    /** Whether this process keeps renewing the lease until it is released. Default true. */
    readonly renew?: boolean | undefined;
    /** The longest time a lease may last, renewals and extensions included. Default: no limit. */
    readonly maxHold?: Duration | undefined;
    /**
     * When others may take the lock from a holder that does not release it: once its ttl has run out (`'expiry'`, the
     * default), or also once the holder's database session is gone (`'session'`, PostgreSQL and single-primary MySQL).
     */
    readonly takeover?: 'expiry' | 'session' | undefined;
    /**
     * Leases that the caller holds while it waits. To wait for a lock that one of them has is a DeadlockError at once. What the
     * runs around the call hold is known without that.
     */
    readonly holding?: readonly HeldLease[] | undefined;
    /** What `inspect` and `list` are to show of the holder: at most 4 KiB of JSON, written by a statement of its own. */
    readonly metadata?: unknown;
}
/** What became of a tryRun. */
type RunOutcome<T> = {
    readonly ran: true;
    readonly value: T;
} | {
    readonly ran: false;
};
/** What `holding` has to know of a lease. Any lease will do. */
interface HeldLease {
    readonly name: string;
    readonly owner: string;
    readonly token: bigint;
    isHeld(): boolean;
}
/** How run and tryRun take a lock. */
interface RunOptions extends LockOptions {
    /**
     * Whether the body shares the lease of a run around the call that holds the lock already, on that one's terms. The last of
     * those bodies to end releases it. LockLostError if that lease is lost. Default false: to wait for it is a DeadlockError.
     */
    readonly reenter?: boolean | undefined;
    /**
     * The lock stays taken for that long after it was acquired, though the body has ended: for what must not happen again too
     * soon. `close` and the end of the process leave it taken, until the later of `holdAtLeast` and `ttl`. Not with
     * `takeover: 'session'`, nor for a body that re-enters.
     */
    readonly holdAtLeast?: Duration | undefined;
}
/** `mode`, `holding` and `metadata` are said for each call. */
interface InstanceOptions extends Omit<LockOptions, 'mode' | 'holding' | 'metadata'> {
    /** PostgreSQL schema of rowlock's tables. Default: the one that the connection's search_path leads to, looked up once. */
    readonly schema?: string | undefined;
    /** Default `rowlock_`. */
    readonly tablePrefix?: string | undefined;
    /** Who we are, for `inspect`. Default: host:pid. At most 255 bytes. */
    readonly holder?: string | undefined;
    /** How many callers may wait for one lock, in all processes together. More are refused: QueueFullError. Default 10,000. */
    readonly maxWaiters?: number | undefined;
    /** How long the database may take to answer before an operation fails as DATABASE, its outcome unknown. Default 5 s. */
    readonly statementTimeout?: Duration | undefined;
    /**
     * Whether rowlock keeps a connection of its own beside the pool, by which leases are renewed and waiters served while all of
     * the pool's connections are in transactions. Default true; false for where each process is short-lived (serverless).
     */
    readonly ownConnection?: boolean | undefined;
}

interface OfLease {
    readonly name: string;
    readonly token: bigint;
    readonly owner: string;
    readonly mode: Mode;
}
/** What happened, one union, told apart by `type`. Times are milliseconds of this process's monotonic clock. */
type LockEvent = ({
    readonly type: 'acquired';
    readonly waitedMs: number;
} & OfLease)
/** An `acquired` that took the lock from a holder that had not released it: its lease ran out or its session died. */
 | ({
    readonly type: 'takeover';
} & OfLease) | ({
    readonly type: 'renewed';
    readonly remainingMs: number;
} & OfLease)
/** The row is ours but locked by a transaction (a guard, most likely), so the expiry could not be moved; tried again soon. */
 | ({
    readonly type: 'held';
} & OfLease)
/** A renewal got no answer. The lease lives on until its deadline, and is renewed again before. */
 | ({
    readonly type: 'unknown';
    readonly cause: unknown;
} & OfLease)
/** It is shared from now on. */
 | ({
    readonly type: 'downgraded';
} & OfLease) | ({
    readonly type: 'lost';
    readonly reason: string;
} & OfLease) | ({
    readonly type: 'released';
} & OfLease) | {
    readonly type: 'timeout';
    readonly name: string;
    readonly waitedMs: number;
} | {
    readonly type: 'forced';
    readonly name: string;
}
/**
 * A setting of the server that a crash would turn into a danger for locks, although all seems well; or a semaphore with
 * another number of permits than it was opened with. Once per instance.
 */
 | {
    readonly type: 'warning';
    readonly message: string;
}
/** Something failed in the background, where nobody could catch it. Nothing is granted or lost because of it. */
 | {
    readonly type: 'error';
    readonly during: string;
    readonly cause: unknown;
};
type LockListener = (event: LockEvent) => void;

/**
 * A hold with an expiry, renewed while its holder lives. Held until it is released or lost; never held again after that.
 */
interface Lease<Tx> {
    readonly name: string;
    /** The fencing token: it rises with every change of owner of this lock. */
    readonly token: bigint;
    /** A random id, with a new one for each hold of a lock; holds of several locks that were acquired at once may share one. */
    readonly owner: string;
    /** Beside others that are shared, or alone. Permits of a semaphore are shared. */
    readonly mode: Mode;
    /**
     * What the last `checkpoint` of a holder left, when this lease was acquired; null if nothing. Null for a shared lease. `purge`
     * takes it off together with the row of the lock; forceRelease leaves it to the next holder.
     */
    readonly payload: unknown;
    /**
     * Aborts, with a LockLostError, before anybody else can get the lock: at the lease's deadline at the latest, and when
     * `locks.close()` releases it. Not on a release of the holder's own.
     */
    readonly signal: AbortSignal;
    /** Whether the lease is trusted at this moment. Compares clocks, so a stalled event loop cannot make it lie. */
    isHeld(): boolean;
    /** Milliseconds until the lease stops being trusted unless it is renewed; 0 when it is over. */
    remainingMs(): number;
    /**
     * Makes the lease last at least `ttl` from now, and renews it by that from then on. LockLostError if it is no longer ours.
     * DATABASE if there is no answer within `statementTimeout`; it may be extended nevertheless.
     */
    extend(ttl: Duration): Promise<void>;
    /**
     * Leaves `value`, at most 64 KiB of JSON, to whoever holds the lock next, also if this process dies: as its `payload`. In the
     * commit of `tx`, or else in one of its own; that depends on this lease as with `guard`: LockLostError if it is lost. Each one
     * replaces the one before, and undefined leaves nothing. INVALID_ARGUMENT for a shared lease.
     */
    checkpoint(value: unknown, tx?: Tx | (() => Tx)): Promise<void>;
    /**
     * Makes an exclusive lease shared, with the same token, and nobody in between: those at the head of the queue who want to
     * share the lock come in with it. Does nothing to a lease that is shared. Waits for the end of a transaction that the lease
     * guards: LOCK_TIMEOUT after `statementTimeout`. LockLostError if it is no longer ours. If the database cannot be asked, the
     * lease may be either: call it again. There is no way back: two who waited to be alone would wait for each other. What
     * `toJSON` gave before is of the lease as it was: take it again. INVALID_ARGUMENT while bodies of `run` share it by `reenter`.
     */
    downgrade(): Promise<void>;
    /**
     * Makes the commit of `tx` depend on this lease: LockLostError unless the lease stands, and from then until `tx` ends
     * nobody whom it excludes can get the lock, even past the expiry. Call it first in the transaction, and never inside a
     * savepoint that may be rolled back. With a synchronous SQLite driver it also works, and throws, synchronously. DATABASE if
     * there is no answer within `statementTimeout`: roll `tx` back.
     */
    guard(tx: Tx | (() => Tx)): Promise<void>;
    /**
     * Runs `query` in `tx` under a guard and answers its rows: in one round trip on PostgreSQL, where it must have no WITH of
     * its own, else as `guard` followed by the query. Takes `{ text, values }`, `{ sql, parameters }` or a Kysely query. What
     * your statement may take, your own settings say.
     */
    guarded<Row = Record<string, unknown>>(tx: Tx | (() => Tx), query: GuardedQuery): Promise<Row[]>;
    /**
     * Gives the lock back: true, or false if it had already been lost. Repeated calls answer the same. Rejects if the
     * database cannot be asked within `statementTimeout`, or if a transaction keeps the row locked; the lock then frees itself
     * at its expiry at the latest. While the database cannot be asked, the release is repeated in the background until then.
     *
     * INVALID_ARGUMENT while bodies of `run` share it by `reenter`: the last of them to end releases it.
     *
     * With `tx`, gives it back with the commit of that transaction, whose commit thereby depends on the lease as with `guard`:
     * LockLostError if it is lost. The lease is not renewed any more; if `tx` rolls back, call `release()` or let it run out.
     */
    release(tx?: Tx | (() => Tx)): Promise<boolean>;
    [Symbol.asyncDispose](): Promise<void>;
    /** What `locks.restore` takes; the token as text. */
    toJSON(): LeaseJson;
}
interface LeaseJson {
    readonly name: string;
    readonly owner: string;
    readonly token: string;
    readonly ttlMs: number;
    /** Of a shared lease: where the database keeps it. */
    readonly slot?: number;
}
/** Accepts Kysely builders and compiled queries, and `{ text, values }`. */
type GuardedQuery = CallerQuery | {
    readonly sql: string;
    readonly parameters: readonly unknown[];
} | {
    compile(): {
        readonly sql: string;
        readonly parameters: readonly unknown[];
    };
};

/** How a leader holds its place. */
type ElectionOptions = Pick<LockOptions, 'ttl' | 'takeover' | 'maxHold' | 'metadata'>;
/** One time as a leader. */
interface Term<Tx> {
    readonly name: string;
    /** The fencing token: it rises from term to term, of whichever process. */
    readonly token: bigint;
    /**
     * Aborts when the term ends, or is to end: with LockLostError if the lease is lost, with ResignedError if the leader resigns or
     * is asked to, or with the reason of the signal that was given to `lead`.
     */
    readonly signal: AbortSignal;
    /** Makes the commit of `tx` depend on the term, as `lease.guard` does: no two leaders write under it. */
    guard(tx: Tx | (() => Tx)): Promise<void>;
    /** What the last leader left, or another holder of the lock of that name: see `lease.payload`. */
    readonly payload: unknown;
    /** Leaves `value` to the next leader: see `lease.checkpoint`. */
    checkpoint(value: unknown, tx?: Tx | (() => Tx)): Promise<void>;
    /** Lets the next candidate lead at once. The body should end. */
    resign(): Promise<void>;
}
/** Who leads. */
interface Leader {
    /** Who that is, for people: host:pid, unless createLocks was told otherwise. */
    readonly holder: string;
    readonly token: bigint;
    /** By the database's clock. */
    readonly since: Date;
}
/** The lock of one name, held by one leader of all processes, for as long as it lives. */
interface Election<Tx> {
    readonly name: string;
    /**
     * Waits to be elected, runs `body` as the leader, and then is a candidate again, behind those who wait; until `signal` aborts or
     * the instance is closed, and the body has ended. A body that resolves ends its term. One that rejects does so, too, and is an
     * `error` event; it pauses before it is a candidate again, longer each time, as does one that ends at once.
     */
    lead(options: {
        readonly signal?: AbortSignal | undefined;
    }, body: (term: Term<Tx>) => Promise<unknown> | unknown): Promise<void>;
    /**
     * Who leads, and then each change of that, or null while nobody does, in order; the latest one for who reads slowly. Ends with
     * `signal`, and when the instance is closed. One statement for all that this process observes, a few times a second.
     */
    observe(options?: {
        readonly signal?: AbortSignal | undefined;
    }): AsyncIterableIterator<Leader | null>;
    /** Asks the present leader to resign, who hears of it within a second or so. False if there is none. */
    requestResign(): Promise<boolean>;
}

/** One of those who hold a lock. */
interface HolderInfo extends HolderState {
    /** By the database's clock, as its token tells; later than it was if that clock had been set back before. */
    readonly acquiredAt: Date;
    /** What it said of itself when it acquired the lock; undefined if nothing. */
    readonly metadata: unknown;
}
/** A lock that is held, or a semaphore of which permits are. */
interface LockInfo extends LockState {
    readonly holders: readonly HolderInfo[];
}

/** How a job is run. */
interface JobOptions extends Pick<LockOptions, 'ttl' | 'maxHold' | 'takeover' | 'metadata'> {
    /**
     * `'at-most-once'`, the default: an instant counts as taken before its run begins, whatever becomes of that. `'at-least-once'`: when the
     * run has succeeded; one that has failed, or whose process was killed, is taken up again, here or elsewhere, until the next
     * instant comes.
     */
    readonly guarantee?: 'at-most-once' | 'at-least-once' | undefined;
    /**
     * What becomes of instants at which no process was there: nothing (`'skip'`, the default), or one run for the last of them when
     * a process comes (`'once'`). A job that has never run has missed nothing.
     */
    readonly missed?: 'skip' | 'once' | undefined;
}
interface EveryOptions extends JobOptions {
    /** From when the periods are counted: a Date, or milliseconds since 1970. Default: 1970, in UTC. */
    readonly from?: Date | number | undefined;
}
interface CronOptions extends JobOptions {
    /** In which the expression is read, as `'Europe/Berlin'`. Default `'UTC'`, which is the same for all processes. */
    readonly timezone?: string | undefined;
}
/** What a run of a job is given. */
interface JobRun<Tx> {
    /** Guards its writes. Released after the run. */
    readonly lease: Lease<Tx>;
    /** The instant, by the database's clock. */
    readonly scheduledAt: Date;
    /** The lease's: aborts when that is lost. */
    readonly signal: AbortSignal;
    /** When a run of this job last succeeded; null if none ever has. */
    readonly lastSuccess: Date | null;
}
/** A job as one process takes part in it. It keeps the process alive until it is stopped. */
interface Job {
    readonly name: string;
    /** A run is under way in this process. */
    readonly running: boolean;
    /** When it is to run next, as far as this process knows; null if it is stopped. */
    next(): Date | null;
    /** Begins no more runs here. Resolves when the run under way has ended; at once if that run calls it. */
    stop(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}

/** How something is done once. */
interface OnceOptions extends Omit<LockOptions, 'mode'> {
    /** For how long it counts as done; after that it may run again. Default `Infinity`. */
    readonly keepFor?: Duration | undefined;
}
/** The value is what the function gave, in this call or in an earlier one, as JSON carries it. */
type OnceOutcome<T> = {
    readonly ran: boolean;
    readonly value: T;
};

interface SemaphoreOptions {
    /**
     * How many there are, if the database does not know the semaphore yet. It keeps the number that it was first opened with
     * until somebody calls `resize`; who opens it with another one gets a `warning` event.
     */
    readonly permits: number;
    /** Whether another number in the database is an error: INVALID_ARGUMENT on each call. Default false. */
    readonly strict?: boolean | undefined;
}
/** How permits are taken and kept. */
interface PermitOptions extends Omit<LockOptions, 'mode'> {
    /** How many of them. Default 1. INVALID_ARGUMENT if there are not that many. */
    readonly weight?: number | undefined;
}
/** Permits that can be held by several at once. Callers get them in the order of their calls, heavy ones included. */
interface Semaphore<Tx> {
    readonly name: string;
    /** Resolves with a lease on `weight` permits, or rejects with LockTimeoutError after `wait`, or with the signal's reason. */
    acquire(options?: PermitOptions): Promise<Lease<Tx>>;
    /** Resolves with a lease, or with null if there are not so many permits left, or others wait for them. */
    tryAcquire(options?: PermitOptions): Promise<Lease<Tx> | null>;
    /** Runs `body` under a lease and releases it afterwards, as `locks.run` does. */
    run<T>(options: PermitOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>;
    /** As run, but does not run the body if there are not so many permits left, or others wait for them. */
    tryRun<T>(options: PermitOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<RunOutcome<T>>;
    /**
     * Changes how many permits there are, for everybody, and gives what is new to those who wait. What is held stays held: while that is more than there
     * are, nobody gets any. Those who wait for more than there are: INVALID_ARGUMENT. LOCK_TIMEOUT if a transaction keeps the
     * row of the semaphore locked for longer than `wait`.
     */
    resize(permits: number, options?: {
        readonly wait?: Duration | undefined;
    }): Promise<void>;
    /** How many permits nobody holds at this moment. Others may be waiting for them. */
    available(): Promise<number>;
}

/**
 * Leases that were acquired together, all or none of them, and end together: the loss of one is the loss of all.
 */
interface Leases<Tx> {
    /**
     * In byte order of their names. Release them together: with one of them released by itself, `isHeld` is false, and guards
     * fail, although the others are held.
     */
    readonly leases: readonly Lease<Tx>[];
    /**
     * Aborts with the LockLostError of the first lease that is lost, before anybody else can get its lock. The others are
     * released then. Not on a release of the holder's own.
     */
    readonly signal: AbortSignal;
    /** Whether all are trusted at this moment. Compares clocks, so a stalled event loop cannot make it lie. */
    isHeld(): boolean;
    /** Milliseconds until the first of them stops being trusted unless it is renewed; 0 when one is over. */
    remainingMs(): number;
    /** Makes all last at least `ttl` from now, and renews them by that from then on. LockLostError if one is no longer ours. */
    extend(ttl: Duration): Promise<void>;
    /**
     * Makes the commit of `tx` depend on all of them, in one message: LockLostError unless all stand, and from then until `tx`
     * ends nobody else can get one of the locks. What is true of a single lease's guard is true of this one.
     */
    guard(tx: Tx | (() => Tx)): Promise<void>;
    /**
     * Gives all locks back: true, or false if one had already been lost. Otherwise as a single lease's release, also with `tx`:
     * then all are given back with its commit, or none.
     */
    release(tx?: Tx | (() => Tx)): Promise<boolean>;
    [Symbol.asyncDispose](): Promise<void>;
}

/** A hold that ends with the transaction it was taken in. */
interface TransactionHold {
    readonly name: string;
    /** The fencing token. Publish it only after the commit: a rollback takes it back. */
    readonly token: bigint;
}
/** A lease that starts with the commit of the transaction it was taken in. */
interface PendingLease<Tx> {
    readonly name: string;
    readonly owner: string;
    readonly token: bigint;
    /**
     * Call it after the commit: makes the lease last its whole ttl from now, and renews it. LockLostError if the transaction
     * rolled back (or has not committed yet), or if its ttl, which runs from the call of `lease`, was over before.
     */
    confirm(): Promise<Lease<Tx>>;
}
type TransactionOptions = Pick<LockOptions, 'wait' | 'signal' | 'mode' | 'holding'>;
type TransactionOnceOptions = Pick<OnceOptions, 'keepFor' | 'wait' | 'signal' | 'holding'>;
type PendingLeaseOptions = Pick<LockOptions, 'ttl' | 'wait' | 'signal' | 'holding' | 'renew' | 'maxHold'>;
/**
 * Locks taken in a transaction of the caller's: with its commit or not at all. While it is open they exclude every other
 * holder, leases and transactions alike.
 */
interface TransactionLocks<Tx> {
    /**
     * Holds the lock until `tx` commits or rolls back. Waits for it at most `wait`: LockTimeoutError, after which `tx` stays
     * usable. A deadlock of transactions, or a snapshot that is too old, is TRANSACTION_ABORTED: roll back, and retry the
     * transaction. DeadlockError at once if a lease of the caller's own has the lock. DATABASE if there is no answer within
     * `wait` and a second: roll back, too.
     *
     * Shared, it is granted beside `tx`, on another connection, and may last for another second after a rollback. UNSUPPORTED
     * where there is one connection.
     */
    acquire(name: string, options?: TransactionOptions): Promise<TransactionHold>;
    /** As acquire, but null if the lock is held. Never waits, and leaves `tx` usable. Answers within one `statementTimeout`. */
    tryAcquire(name: string, options?: Pick<LockOptions, 'mode'>): Promise<TransactionHold | null>;
    /**
     * Holds all these locks, from 1 to 1,000, until `tx` ends, and answers in byte order of their names. Takes them in that order,
     * so that no two such calls wait for each other; `wait` is for all. What it has when it fails stays held until `tx` ends:
     * roll back. At REPEATABLE READ and above on PostgreSQL, a lock that changes hands meanwhile is TRANSACTION_ABORTED.
     */
    acquireAll(names: readonly string[], options?: TransactionOptions): Promise<TransactionHold[]>;
    /**
     * Runs `body` unless `key` is done, which it is with the commit of `tx`: exactly once in this database. Answers what the body gave,
     * or what it gave then. Holds the lock of that name until `tx` ends: a second transaction waits, `wait` at most, for the first
     * to end. Above READ COMMITTED, TRANSACTION_ABORTED: retry the transaction. If the body rejects, it is not done, whatever
     * becomes of `tx`. UnstorableResultError, and not done, if JSON cannot carry what it gave.
     */
    once<T>(key: string, options: TransactionOnceOptions, body: (hold: TransactionHold) => Promise<T> | T): Promise<OnceOutcome<T>>;
    /** Takes an exclusive lease that nobody sees before the commit, and that outlives it. Waits as acquire does. */
    lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>>;
}
/** What the caller knows of its transaction. */
interface WithinOptions {
    /** The isolation level of `tx`. On PostgreSQL, saying that it is 'read committed' saves asking for it: one round trip. */
    readonly isolation?: 'read committed' | 'repeatable read' | 'serializable' | undefined;
}

/** What `createLocks` takes: made by fromPg, fromKysely, fromMemory and the like. */
type Adapter<Tx> = SqlAdapter<Tx> | MemoryAdapter;
interface ForceOptions {
    readonly wait?: Duration | undefined;
    /** Only the hold with that token, if it still stands. Left out: all holds. */
    readonly token?: bigint;
}
/** Locks of one database, as one process uses them. Make one for the life of the process, and close it at its end. */
interface Locks<Tx> {
    /**
     * Makes or updates rowlock's tables; answers the names of the migrations that it applied, which are none if all was up to
     * date. Safe to call from any number of processes at once, and again.
     */
    migrate(): Promise<string[]>;
    /**
     * Resolves with a lease, or rejects with LockTimeoutError after `wait`, or with the signal's reason. With DeadlockError at
     * once if it would wait for the caller itself: for a run around the call, or for a lease in `holding`.
     */
    acquire(name: string, options?: LockOptions): Promise<Lease<Tx>>;
    /** Resolves with a lease, or with null if somebody holds the lock. Never waits for it. */
    tryAcquire(name: string, options?: LockOptions): Promise<Lease<Tx> | null>;
    /**
     * Resolves with leases of all these locks, from 1 to 1,000, or of none. Takes them in byte order, so that no two such calls
     * wait for each other: while it waits for one, it holds those before, and renews them; one that it loses meanwhile it waits
     * for again. LockTimeoutError if `wait` is over before it has all. The terms run from when all are held.
     */
    acquireAll(names: readonly string[], options?: LockOptions): Promise<Leases<Tx>>;
    /**
     * Resolves with leases of all these locks, or with null if somebody holds one of them. Never waits. Those that are free are
     * taken and given back, so two such calls for some of the same locks may both be answered with null.
     */
    tryAcquireAll(names: readonly string[], options?: LockOptions): Promise<Leases<Tx> | null>;
    /**
     * Runs `body` under a lease and releases it afterwards. What the body rejects with comes through unchanged; a body that
     * resolved although its lease was lost rejects with LockLostError, which carries the `result`. In the body, a run for the
     * same name rejects with DeadlockError at once, or shares the lease with `reenter`.
     */
    run<T>(name: string, options: RunOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>;
    /** As run, but does not run the body if somebody holds the lock. */
    tryRun<T>(name: string, options: RunOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<RunOutcome<T>>;
    /**
     * A semaphore: its permits can be held by several at once, in all processes. Does not ask the database yet. Its name is
     * nobody else's: a lock is no semaphore.
     */
    semaphore(name: string, options: SemaphoreOptions): Semaphore<Tx>;
    /**
     * Runs `body` unless `key` is done, and answers what it gave, or what it gave when it was done. Done is what a body has
     * resolved for whose lease was held until then; for `keepFor`. One process at a time runs it, under a lease on the lock of that
     * name: the others wait, `wait` at most, and get the value. If the body rejects, its error comes through, nothing is done, and
     * the next caller runs. LockLostError, with the result, if the lease was lost; UnstorableResultError if what the body gave is
     * nothing that JSON carries, or more than 64 KiB of it.
     */
    once<T>(key: string, options: OnceOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<OnceOutcome<T>>;
    /**
     * Runs `body` once in each period, in one of all processes that say the same: at the multiples of `period`, from 100 ms to a
     * year, since 1970 by the database's clock. Runs of one name never overlap, under leases on the lock of that name. A body
     * that rejects is an `error` event. A process that says another period for that name later is followed by all.
     */
    every(period: Duration, name: string, options: EveryOptions, body: (run: JobRun<Tx>) => unknown): Job;
    /**
     * The same at the instants of a cron expression, which the package `croner` reads: each in one process, whatever their clocks
     * say. None is passed over while one of them is there, which may take it up to 10 s late.
     */
    cron(expression: string, name: string, options: CronOptions, body: (run: JobRun<Tx>) => unknown): Job;
    /** An election: the lock of that name, held by one leader of all processes. Does not ask the database yet. */
    election(name: string, options?: ElectionOptions): Election<Tx>;
    /**
     * Resolves when nobody holds the lock, or any permit of the semaphore, and holds nothing itself: somebody may have it a moment later.
     * LockTimeoutError after `wait`. What a transaction holds that has not committed is not seen.
     */
    waitUntilFree(name: string, options?: Pick<LockOptions, 'wait' | 'signal'>): Promise<void>;
    /** Locks in a transaction of the caller's, or in the one that a function finds when it is called. */
    within(tx: Tx | (() => Tx), options?: WithinOptions): TransactionLocks<Tx>;
    /**
     * A lease from its JSON form, in this or another process; from now on renewed here, too. LockLostError if it is not held.
     */
    restore(json: LeaseJson, options?: Pick<LockOptions, 'renew' | 'maxHold'>): Promise<Lease<Tx>>;
    /** Who holds a lock or a semaphore, and who waits for it; or null when nobody holds it. */
    inspect(name: string): Promise<LockInfo | null>;
    /** All locks that are held, in byte order of their names. */
    list(options?: {
        readonly prefix?: string;
    }): Promise<LockInfo[]>;
    /**
     * Takes the lock from all who hold it, or from the one with that `token` alone: true, or false if there was none. The evicted
     * holder's next guarded write fails. Waits for a guarded transaction that is under way; LOCK_TIMEOUT if that takes longer
     * than `wait`. DATABASE if there is no answer within `wait` and a second: it may have been taken.
     */
    forceRelease(name: string, options?: ForceOptions): Promise<boolean>;
    /** Deletes the rows of locks that nobody has held for `idleFor`; answers how many. Their tokens will not be reissued. */
    purge(options: {
        readonly idleFor: Duration;
    }): Promise<number>;
    /** Calls `listener` for each event of this instance. Returns the function that unsubscribes. */
    on(listener: LockListener): () => void;
    /**
     * Ends all waits, releases the leases of this instance, whose signals abort first, and stops its timers. The pool or
     * handle stays the caller's. Takes two `statementTimeout` at most, whatever keeps the database from answering.
     */
    close(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}
/** Sets up locks on a database. Does not connect yet. */
declare function createLocks(adapter: MemoryAdapter, options?: InstanceOptions): Locks<MemoryTransaction>;
declare function createLocks<Tx>(adapter: Adapter<Tx>, options?: InstanceOptions): Locks<Tx>;

export { createLocks };
export type { Adapter, CronOptions, Duration, Election, ElectionOptions, EveryOptions, ForceOptions, GuardedQuery, HeldLease, HolderInfo, InstanceOptions, Job, JobOptions, JobRun, Leader, Lease, LeaseJson, Leases, LockEvent, LockInfo, LockListener, LockOptions, Locks, Mode, OnceOptions, OnceOutcome, PendingLease, PendingLeaseOptions, PermitOptions, QueueState, RunOptions, RunOutcome, Semaphore, SemaphoreOptions, Term, TransactionHold, TransactionLocks, TransactionOnceOptions, TransactionOptions, WithinOptions };

// sqlite.d.cts

interface SqliteStatement {
    all(...values: never[]): unknown[];
    run(...values: never[]): unknown;
    /** better-sqlite3 refuses `all` where this is false. */
    readonly reader?: boolean;
    /** Of better-sqlite3, whose handle may be set up for bigints. */
    safeIntegers?(enabled: boolean): unknown;
    /** Of node:sqlite, whose handle may be set up for bigints, and for rows that are arrays. */
    setReadBigInts?(enabled: boolean): unknown;
    setReturnArrays?(enabled: boolean): unknown;
}
/** What better-sqlite3 and node:sqlite have in common; the handle is also what guards take, once a transaction is open on it. */
interface SqliteHandle {
    exec(sql: string): unknown;
    prepare(sql: string): SqliteStatement;
}

export type { SqliteHandle };

import type { Result, SqlEngine, Statement } from '../adapters/adapter.ts'
import { DatabaseError, LockError } from '../base/errors.ts'
import type { Assessment } from '../protocol/store.ts'

/**
 * Who takes writes. With 'galera' and 'group' all nodes do, no node waits for the row locks of another, and a transaction
 * learns only at its commit that another node was faster.
 */
export type Writers = 'one server' | 'galera' | 'group'

/** What the server that answers says about itself, and about the session it was asked in. */
export interface Topology {
  readonly writers: Writers
  readonly dialect: 'mysql' | 'mariadb' | 'postgres' | 'sqlite'
  readonly settings: Settings
}

/** Lower case names and values, as the engine spells them. Only those that the server knows. */
type Settings = Readonly<Record<string, string | undefined>>

const MYSQL_SETTINGS: Statement = {
  text: `
    show variables where variable_name in (
      'wsrep_on', 'wsrep_dirty_reads', 'group_replication_single_primary_mode',
      'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog',
      'version', 'version_comment', 'innodb_rollback_on_timeout', 'autocommit', 'read_only', 'transaction_read_only', 'tx_read_only',
      'idle_transaction_timeout', 'idle_write_transaction_timeout', 'idle_readonly_transaction_timeout')`,
  values: [],
}

/**
 * `unpermitted`: what row level security lets nobody like us do with the table, because no policy is there for it. Rows that
 * may be read but not changed would look like rows that somebody else has locked.
 */
const POSTGRES_SETTINGS = (table: string): Statement => ({
  text: `
    select version() as version,
           current_setting('fsync') as fsync,
           current_setting('full_page_writes') as full_page_writes,
           current_setting('default_transaction_read_only') as default_transaction_read_only,
           pg_is_in_recovery()::text as in_recovery,
           (select string_agg(name, ', ')
            from (values ('SELECT', 'r'), ('INSERT', 'a'), ('UPDATE', 'w')) as command(name, letter)
            where row_security_active(to_regclass(nullif($1::text, ''))::oid)
              and not exists (
                select from pg_policy
                where polrelid = to_regclass(nullif($1::text, '')) and polpermissive and polcmd::text in ('*', letter)
                  and (polroles = '{0}' or exists (select from unnest(polroles) as role where pg_has_role(role, 'usage'))))
           ) as unpermitted`,
  values: [table],
})

/** Engines that speak a dialect but know less than the settings above. */
const POSTGRES_VERSION: Statement = { text: 'select version() as version', values: [] }

const SQLITE_SETTINGS: Statement = {
  text: `
    select (select synchronous from pragma_synchronous) as synchronous,
           (select journal_mode from pragma_journal_mode) as journal_mode,
           (select file from pragma_database_list where name = 'main') as file`,
  values: [],
}

/** One round trip, for `run` to make in a session like those that take locks; `table` is that of the locks. */
export async function readTopology(
  engine: SqlEngine,
  run: (statement: Statement) => Promise<Pick<Result, 'rows'>>,
  table = '',
): Promise<Topology> {
  switch (engine) {
    case 'mysql': {
      const { rows } = await run(MYSQL_SETTINGS)
      const settings = toSettings(rows.map((row) => [row.Variable_name, row.Value]))
      const dialect = settings.version?.includes('mariadb') ? 'mariadb' : 'mysql'
      return { writers: mysqlWriters(settings), dialect, settings }
    }
    case 'postgres':
      return {
        writers: 'one server',
        dialect: 'postgres',
        settings: toSettings(Object.entries((await postgresSettings(run, table)).rows[0] ?? {})),
      }
    case 'sqlite':
      return {
        writers: 'one server',
        dialect: 'sqlite',
        settings: toSettings(Object.entries((await run(SQLITE_SETTINGS)).rows[0] ?? {})),
      }
  }
}

/**
 * Pure, so that it can be asked about any server. Settings of other engines are absent, and absent settings are fine.
 * `embedded`: the database is in this process, and dies with all holders of its locks.
 */
export function assess({ writers, settings }: Omit<Topology, 'dialect'>, embedded = false): Assessment {
  const warnings: string[] = []
  if (embedded && settings.fsync !== undefined) return { refusal: refusal(settings), warnings }
  if (settings.fsync === 'off') {
    warnings.push('fsync is off: after a crash of this server nothing is certain, neither data nor locks')
  }
  if (settings.full_page_writes === 'off') {
    warnings.push('full_page_writes is off: a power failure can destroy the tables of this server')
  }
  // In Galera the other nodes have each commit before it is reported.
  if (writers !== 'galera' && isOtherThan('1', settings.innodb_flush_log_at_trx_commit)) {
    warnings.push(
      `innodb_flush_log_at_trx_commit is ${settings.innodb_flush_log_at_trx_commit}: a crash can undo the last second of commits, so that a lock is free while its holder still counts on it; set it to 1`,
    )
  }
  if (settings.log_bin === 'on' && isOtherThan('1', settings.sync_binlog)) {
    warnings.push(
      `sync_binlog is ${settings.sync_binlog}: a crash can undo the last commits, so that a lock is free while its holder still counts on it; set it to 1`,
    )
  }
  const isInMemory = settings.file === ''
  // NORMAL loses commits only when the machine dies, and all holders of a file's locks with it.
  if (settings.synchronous === '0' && !isInMemory) {
    warnings.push('synchronous is OFF: a power failure can destroy this file; set it to NORMAL or FULL')
  }
  if (['off', 'memory'].includes(`${settings.journal_mode}`) && !isInMemory) {
    warnings.push(`journal_mode is ${settings.journal_mode}: a process that dies can destroy this file; set it to WAL`)
  }
  return { refusal: refusal(settings), warnings }
}

/** Null if a session of this server tells all others whether its holder lives. */
export function sessionRefusal({ writers }: Pick<Topology, 'writers'>): LockError | null {
  if (writers === 'one server') return null
  const what = writers === 'galera' ? 'Galera (wsrep_on)' : 'multi-primary group replication'
  return new LockError(
    'UNSUPPORTED',
    `takeover: 'session' needs one primary, because GET_LOCK is known to its own node only, and this is ${what}; use takeover: 'expiry'`,
  )
}

/**
 * The same statement, but in Galera it first waits until its node has applied what others have committed. Without that, a node
 * that is a moment behind tells a holder that it has lost, or never had, the lock that it got through another node.
 */
export function afterAllCommits({ writers }: Pick<Topology, 'writers'>, statement: Statement): Statement {
  if (writers !== 'galera') return statement
  return { ...statement, text: `set statement wsrep_sync_wait = 7 for ${statement.text}` }
}

function refusal(settings: Settings): LockError | null {
  const broken = brokenPromise(`${settings.version} ${settings.version_comment}`)
  if (broken !== undefined) {
    return new LockError('UNSUPPORTED', `${broken}. Keep the locks in PostgreSQL, MySQL, MariaDB or SQLite`)
  }
  if (settings.wsrep_dirty_reads === 'on') {
    return new LockError(
      'UNSUPPORTED',
      'wsrep_dirty_reads is on: a node that has lost its cluster would go on to show who held the locks back then. Set it to OFF, its default, for the connections that rowlock uses',
    )
  }
  // A standby says so itself with every write that it refuses, until it is promoted.
  if (settings.default_transaction_read_only === 'on' && settings.in_recovery === 'false') {
    return new LockError(
      'UNSUPPORTED',
      'default_transaction_read_only is on, and taking a lock writes. Set it to off for the connections that rowlock uses',
    )
  }
  // A server that takes no writes says so itself, and may become the primary.
  const sessionReadOnly = settings.transaction_read_only ?? settings.tx_read_only
  if (sessionReadOnly === 'on' && settings.read_only === 'off') {
    return new LockError(
      'UNSUPPORTED',
      'transaction_read_only is on, and taking a lock writes. Set it to off for the connections that rowlock uses',
    )
  }
  if (settings.autocommit === 'off') {
    return new LockError(
      'UNSUPPORTED',
      'autocommit is off: what rowlock writes would not be committed, and a lock that nobody else sees is none. Set it to 1 for the connections that rowlock uses (look at init_connect, and at the settings of the pool)',
    )
  }
  if (settings.unpermitted !== undefined && settings.unpermitted !== 'null') {
    return new LockError(
      'UNSUPPORTED',
      `row level security is on for the table of locks, and no policy lets this role ${settings.unpermitted.toUpperCase()}: create a policy for it, or "alter table ... disable row level security"`,
    )
  }
  return null
}

async function postgresSettings(
  run: (statement: Statement) => Promise<Pick<Result, 'rows'>>,
  table: string,
): Promise<Pick<Result, 'rows'>> {
  try {
    return await run(POSTGRES_SETTINGS(table))
  } catch (error) {
    if (!(error instanceof DatabaseError) || error.failure !== 'other') throw error
    const answer = await run(POSTGRES_VERSION)
    if (brokenPromise(`${answer.rows[0]?.version}`) === undefined) throw error
    return answer
  }
}

/** Engines that speak the dialect of one of ours, by what they say of their version, and what they break. */
const BROKEN_PROMISES: readonly { readonly version: RegExp; readonly what: string }[] = [
  {
    version: /tidb/i,
    what: 'TiDB accepts SKIP LOCKED and ignores it for rows that the same statement locks, so calls would wait for each other, and its transactions check what they have locked at their commit only',
  },
  {
    version: /cockroachdb/i,
    what: 'CockroachDB accepts advisory locks and takes none, so nothing would keep apart those who create a lock, and a dead session could not be told from a living one',
  },
  {
    version: /\bdsql\b/i,
    what: 'Aurora DSQL has neither row locks nor advisory locks, so a guard would protect nothing until the commit',
  },
]

function brokenPromise(version: string): string | undefined {
  return BROKEN_PROMISES.find((engine) => engine.version.test(version))?.what
}

function mysqlWriters(settings: Settings): Writers {
  if (settings.wsrep_on === 'on') return 'galera'
  return settings.group_replication_single_primary_mode === 'off' ? 'group' : 'one server'
}

function isOtherThan(safe: string, value: string | undefined): boolean {
  return value !== undefined && value !== safe
}

function toSettings(entries: readonly (readonly [unknown, unknown])[]): Settings {
  return Object.fromEntries(entries.map(([name, value]) => [`${name}`.toLowerCase(), `${value}`.toLowerCase()]))
}

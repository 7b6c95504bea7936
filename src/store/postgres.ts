import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import type { Connection, SqlAdapter, Statement } from '../adapters/adapter.ts'
import { DatabaseError, LockError, LockLostError } from '../errors.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrate.ts'
import { databaseError, isConnectionFailure, notMigrated, Runner, statement, transactionAborted } from './statement.ts'
import type {
  Attempt,
  AttemptResult,
  CallerQuery,
  GuardResult,
  Hold,
  HolderSession,
  LockState,
  Renewal,
  Store,
} from './store.ts'

/** All processes that migrate one database take this transaction-level advisory lock: CREATE TABLE IF NOT EXISTS races. */
const MIGRATION_LOCK = '8245928655720965490'

/** Microseconds since 1970 by the server's clock: what a token is at least. */
const clockToken = sql`(extract(epoch from clock_timestamp()) * 1000000)::bigint`

/**
 * True when the session that a hold depends on is gone. Its key is random and never reused, so a dead session stays dead.
 * The shared lock is ours only until the statement ends, and shared locks do not disturb each other.
 */
const sessionGone = sql`case when session is null then false else pg_try_advisory_xact_lock_shared(session) end`

/** Spreads the names of new locks over the advisory locks that guard their creation. */
const NEW_NAME_SEED = 7239615

/**
 * PostgreSQL. Every statement reads clock_timestamp() after it has the row lock: now() is the start of the transaction.
 *
 * Strengths of row locks: whatever changes the owner to somebody else locks FOR UPDATE; a guard locks FOR KEY SHARE, which
 * makes that wait; renewing and releasing lock FOR NO KEY UPDATE, which passes a guard. SKIP LOCKED: nothing here waits.
 */
export function postgresStatements(naming: Naming) {
  const locks = sql.raw(tableName('postgres', 'locks', naming))
  const engine = 'postgres'
  return {
    // WHO HOLDS THE LOCK is decided by the WHERE of `free`: checked, locked, and checked again on the row as locked. The
    // advisory lock keeps two inserts of one new name apart, of which one would wait for the other's transaction.
    acquire: statement<Attempt>(
      engine,
      (p) => sql`
        with free as (
          select name, owner = ${p.owner}::text as again, owner is not null as takeover
          from ${locks}
          where name = ${p.name}::text
            and (owner = ${p.owner}::text or expires_at <= clock_timestamp() or ${sessionGone})
          for update skip locked
        ), taken as (
          update ${locks} as l
          set owner = case when ${p.ttlMs}::float8 is not null then ${p.owner}::text end,
              token = case when again then l.token else greatest(l.token + 1, ${clockToken}) end,
              expires_at = clock_timestamp() + coalesce(${p.ttlMs}::float8, 0) * interval '1 ms',
              holder = ${p.holder}::text,
              session = ${p.session}::bigint
          from free
          where l.name = free.name
          returning l.token, takeover and not coalesce(again, false) as takeover
        ), created as (
          insert into ${locks} (name, owner, token, expires_at, holder, session)
          select ${p.name}::text, case when ${p.ttlMs}::float8 is not null then ${p.owner}::text end, ${clockToken},
                 clock_timestamp() + coalesce(${p.ttlMs}::float8, 0) * interval '1 ms',
                 ${p.holder}::text, ${p.session}::bigint
          where case when exists (select from ${locks} where name = ${p.name}::text) then false
                     else pg_try_advisory_xact_lock(hashtextextended(${p.name}::text, ${sql.lit(NEW_NAME_SEED)})) end
          on conflict (name) do nothing
          returning token, false as takeover
        )
        select token::text, takeover, null as holder from taken
        union all
        select token::text, takeover, null from created
        union all
        select null, null, holder from ${locks}
        where name = ${p.name}::text and expires_at > clock_timestamp() and not exists (select from taken)`,
    ),

    // In name order, so that two batches cannot deadlock. A renewal never shortens: a late one is harmless.
    renew: statement<{ holds: string }>(
      engine,
      (p) => sql`
        with asked as (
          select * from json_to_recordset(${p.holds}::text::json) as a(name text, owner text, token bigint, ttl float8)
        ), mine as (
          select l.name, a.ttl
          from ${locks} as l join asked as a on (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
          where l.expires_at > clock_timestamp()
          order by l.name
          for no key update of l skip locked
        ), renewed as (
          update ${locks} as l
          set expires_at = greatest(l.expires_at, clock_timestamp() + mine.ttl * interval '1 ms')
          from mine
          where l.name = mine.name
          returning l.name, l.expires_at
        )
        select a.owner,
               case when r.name is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
               extract(epoch from coalesce(r.expires_at, l.expires_at) - clock_timestamp())::float8 * 1000 as remaining
        from asked as a
        left join renewed as r on r.name = a.name
        left join ${locks} as l on (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
                               and l.expires_at > clock_timestamp()`,
    ),

    // A release that a crash undoes costs the next holder one ttl, so its commit need not wait for the disk.
    release: statement<Hold>(
      engine,
      (p) => sql`
        with mine as (
          select name from ${locks}
          where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
          for no key update skip locked
        ), released as (
          update ${locks} as l
          set owner = null, session = null, expires_at = least(l.expires_at, clock_timestamp())
          from mine
          where l.name = mine.name
          returning set_config('synchronous_commit', 'off', true)
        )
        select exists (select from released) as released,
               exists (select from ${locks}
                       where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint) as ours`,
    ),

    releaseIn: statement<Hold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, session = null, expires_at = least(expires_at, clock_timestamp())
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        returning 1 as released`,
    ),

    // These two wait for whoever has the row locked, or is creating it. Rolled back to a savepoint at once, so that they
    // lock nothing themselves.
    waitForRow: statement<{ name: string }>(
      engine,
      (p) => sql`select 1 from ${locks} where name = ${p.name}::text for update`,
    ),
    waitForCreation: statement<{ name: string }>(
      engine,
      (p) => sql`select 1 from pg_advisory_xact_lock(hashtextextended(${p.name}::text, ${sql.lit(NEW_NAME_SEED)}))`,
    ),

    // Needs no expiry to be safe: as long as this row lock lasts, no statement that grants the lock gets past it.
    guard: statement<Hold>(
      engine,
      (p) => sql`
        select expires_at > clock_timestamp() as stands
        from ${locks}
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        for key share`,
    ),

    free: statement<{ names: string }>(
      engine,
      (p) => sql`
        select wanted.name
        from json_array_elements_text(${p.names}::text::json) as wanted(name)
        left join ${locks} as l on l.name = wanted.name
        where l.name is null or l.expires_at <= clock_timestamp() or ${sessionGone}`,
    ),

    list: statement<{ prefix: string }>(
      engine,
      (p) => sql`
        select name, owner, token::text, holder,
               extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as remaining
        from ${locks}
        where starts_with(name, ${p.prefix}::text)
          and owner is not null and expires_at > clock_timestamp() and not (${sessionGone})
        order by name`,
    ),

    inspect: statement<{ name: string }>(
      engine,
      (p) => sql`
        select name, owner, token::text, holder,
               extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as remaining
        from ${locks}
        where name = ${p.name}::text
          and owner is not null and expires_at > clock_timestamp() and not (${sessionGone})`,
    ),

    forceRelease: statement<{ name: string }>(
      engine,
      (p) => sql`
        with held as (
          select name from ${locks}
          where name = ${p.name}::text and owner is not null and expires_at > clock_timestamp()
          for update skip locked
        ), forced as (
          update ${locks} as l
          set owner = null, session = null, token = greatest(l.token + 1, ${clockToken}), expires_at = clock_timestamp()
          from held
          where l.name = held.name
          returning l.name
        )
        select exists (select from forced) as forced,
               exists (select from ${locks}
                       where name = ${p.name}::text and owner is not null and expires_at > clock_timestamp()) as held`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        with idle as (
          select name from ${locks}
          where expires_at <= clock_timestamp() - ${p.idleMs}::float8 * interval '1 ms' and token < ${clockToken}
          order by name
          for update skip locked
        ), gone as (
          delete from ${locks} as l using idle where l.name = idle.name returning l.name
        )
        select count(*)::int as purged from gone`,
    ),
  }
}

export function postgresStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming): Store<Tx> {
  const statements = postgresStatements(naming)
  const table = tableName('postgres', 'locks', naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table))

  async function acquireIn(tx: Tx, attempt: Attempt): Promise<AttemptResult> {
    return runner.runIn(tx, statements.acquire(attempt), ({ rows: [row] }) => toAttemptResult(row))
  }

  async function undoneIn(tx: Tx, use: (savepoint: Connection) => Promise<void>): Promise<void> {
    if (adapter.undoneIn !== undefined) return adapter.undoneIn(tx, use)
    const savepoint = { query: async (query: Statement) => adapter.queryIn(tx, query) }
    await savepoint.query({ text: 'savepoint rowlock_wait', values: [] })
    await use(savepoint)
    await savepoint.query({ text: 'rollback to savepoint rowlock_wait', values: [] })
    await savepoint.query({ text: 'release savepoint rowlock_wait', values: [] })
  }

  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,

    async acquire(attempt) {
      return toAttemptResult((await runner.run(statements.acquire(attempt))).rows[0])
    },

    acquireIn,

    async acquireBehind(tx, attempt, waitMs) {
      const timeout = `${Math.max(1, Math.floor(waitMs))}ms`
      const wait = async (savepoint: Connection) => {
        await savepoint.query({ text: "select set_config('lock_timeout', $1::text, true)", values: [timeout] })
        try {
          const { rows } = await savepoint.query(statements.waitForRow(attempt))
          if (rows.length === 0) await savepoint.query(statements.waitForCreation(attempt))
        } catch (error) {
          // Everything else, a deadlock above all, has to end the transaction.
          if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error
        }
      }
      try {
        // Undone at once: the row lock would keep a holder from renewing, and lock_timeout is the caller's.
        await undoneIn(tx, wait)
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, true, table)
      }
      return acquireIn(tx, attempt)
    },

    async releaseIn(tx, hold) {
      return runner.runIn(tx, statements.releaseIn(hold), ({ rows }) => rows.length === 1)
    },

    async renew(holds): Promise<Renewal[]> {
      const asked = holds.map(({ name, owner, token, ttlMs }) => ({ name, owner, token: `${token}`, ttl: ttlMs }))
      const { rows } = await runner.run(statements.renew({ holds: JSON.stringify(asked) }))
      const byOwner = new Map(rows.map((row) => [row.owner, row]))
      return holds.map(({ owner }) => {
        const row = byOwner.get(owner)
        return { outcome: row?.outcome as Renewal['outcome'], remainingMs: Number(row?.remaining ?? 0) }
      })
    },

    async release(hold) {
      const [row] = (await runner.run(statements.release(hold))).rows
      if (row?.released === true) return 'released'
      return row?.ours === true ? 'locked' : 'lost'
    },

    guard(tx, hold): GuardResult | Promise<GuardResult> {
      return runner.runIn(tx, statements.guard(hold), ({ rows: [row] }): GuardResult => {
        if (row === undefined) return 'lost'
        return row.stands === true ? 'stands' : 'expired'
      })
    },

    async guardedQuery(tx, hold, query) {
      const folded = foldGuard(statements.guard(hold), query)
      try {
        return await runner.runIn(tx, folded, ({ rows }) => rows)
      } catch (error) {
        const cause = error instanceof LockError ? error.cause : undefined
        const code = sqlState(cause)
        if (isFailedCast(cause, GUARD_FAILED)) {
          throw new LockLostError(hold.name, 'the statement was undone, and its transaction can only roll back', {
            cause,
          })
        }
        // What is wrong with the caller's own statement is for the caller: through unchanged. 40001 may be the guard's.
        throw code === undefined || code === '25P02' || code === '40001' ? error : cause
      }
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, query)).rows
    },

    async free(names) {
      const { rows } = await runner.run(statements.free({ names: JSON.stringify(names) }))
      return new Set(rows.map((row) => row.name as string))
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix }))).rows.map(toState)
    },

    async forceRelease(name) {
      const [row] = (await runner.run(statements.forceRelease({ name }))).rows
      if (row?.forced === true) return 'released'
      return row?.held === true ? 'locked' : 'free'
    },

    async purge(idleMs) {
      const [row] = (await runner.run(statements.purge({ idleMs }))).rows
      return Number(row?.purged)
    },

    async openSession(onLost): Promise<HolderSession> {
      if (adapter.dedicate === undefined) {
        throw new LockError(
          'UNSUPPORTED',
          "takeover: 'session' needs a connection of rowlock's own, which this adapter cannot open: use fromPg, or fromKysely with its sessions option",
        )
      }
      const connection = await adapter.dedicate()
      try {
        const id = (randomBytes(8).readBigInt64BE() >> 1n).toString()
        const { rows } = await connection.query({
          // In a session that is a pooler's own the lock would stay behind.
          text: `select pg_backend_pid() as backend,
                   case when $2::int is null or $2::int = pg_backend_pid() then pg_try_advisory_lock($1::bigint) end as locked`,
          values: [id, connection.backendId ?? null],
        })
        const backend = Number(rows[0]?.backend)
        if (connection.backendId !== undefined && connection.backendId !== backend) {
          throw new LockError(
            'UNSUPPORTED',
            "takeover: 'session' needs a direct connection: a pooler (PgBouncer or the like) stands between, and its sessions are not ours. Give fromPg a direct pool as its sessions option, or use takeover: 'expiry'",
          )
        }
        if (rows[0]?.locked !== true)
          throw new DatabaseError('other', 'the session lock is taken', { cause: undefined })
        connection.onLost(onLost)
        return {
          id,
          ping: () => connection.query({ text: 'select 1', values: [] }),
          close: () => connection.close(),
        }
      } catch (error) {
        await connection.close()
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },

    async migrate() {
      try {
        return await adapter.reserve(async (connection) => {
          const run = (text: string, values: unknown[] = []) => connection.query({ text, values })
          await run('begin')
          try {
            await run('select 1 from pg_advisory_xact_lock($1::bigint)', [MIGRATION_LOCK])
            if (naming.schema !== undefined) {
              const { rows } = await run('select 1 as found from pg_namespace where nspname = $1::text', [
                naming.schema,
              ])
              if (rows.length === 0) await run(`create schema "${naming.schema}"`)
            }
            const history = tableName('postgres', 'migrations', naming)
            const { rows } = await run('select to_regclass($1::text) is not null as found', [history])
            if (rows[0]?.found !== true) await run(historyStatement('postgres', naming))
            const done = new Set((await run(`select name from ${history}`)).rows.map((row) => row.name))
            const applied = await applyPending('postgres', naming, done, run)
            await run('commit')
            return applied
          } catch (error) {
            await run('rollback')
            throw error
          }
        })
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}

const GUARD_FAILED = 'rowlock: the lease is lost'

/** Whether the server quotes this text. Knex puts the statement before the message, where the text is a literal. */
function isFailedCast(error: unknown, text: string): boolean {
  if (sqlState(error) !== '22P02') return false
  const { message } = error as Error
  return message.lastIndexOf(text) > message.lastIndexOf(`'${text}'`) + 1
}

/**
 * The caller's statement as a CTE beside the guard. If the guard finds no row, a cast fails and takes the whole statement
 * with it; count(*) keeps the planner from evaluating the cast beforehand.
 */
function foldGuard(guard: { text: string; values: readonly unknown[] }, query: CallerQuery): CallerQuery {
  const text = query.text.trim().replace(/;$/, '')
  const bare = text.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"|--.*$|\/\*[\s\S]*?\*\//gm, ' ').trim()
  if (/^with\b/i.test(bare)) {
    throw new LockError('INVALID_ARGUMENT', 'guarded() takes a statement without WITH: call guard(tx) before that one')
  }
  const shifted = guard.text.replace(/\$(\d+)/g, (_, index: string) => `$${Number(index) + query.values.length}`)
  const returnsRows = /^(\(|(select|values|table)\b)/i.test(bare) || /\breturning\b/i.test(bare)
  return {
    text: `with rowlock_query as (${text}
      ), rowlock_row as materialized (${shifted}), rowlock_guard as materialized (
        select case when count(*) = 1 then 1 else ('${GUARD_FAILED}' || left(count(*)::text, 0))::int end as stands
        from rowlock_row)
      select ${returnsRows ? 'rowlock_query.* from rowlock_query where 1' : '1 where 0'} = (select stands from rowlock_guard)`,
    values: [...query.values, ...guard.values],
  }
}

function toState(row: Record<string, unknown>): LockState {
  return {
    name: row.name as string,
    owner: row.owner as string,
    token: BigInt(row.token as string),
    holder: row.holder as string,
    expiresInMs: Math.max(0, Number(row.remaining)),
  }
}

function toAttemptResult(row: Record<string, unknown> | undefined): AttemptResult {
  if (row?.token == null) return { granted: false, holder: (row?.holder as string | undefined) ?? null }
  return { granted: true, token: BigInt(row.token as string), takeover: row.takeover === true }
}

const LOCK_NOT_AVAILABLE = '55P03'

function sqlState(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]{4}$/.test(code) ? code : undefined
}

function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  const code = sqlState(error)
  if (code === undefined) return databaseError(isConnectionFailure(error) ? 'connection' : 'other', error)
  if (code === '42P01' || code === '3F000' || code === '42703') return notMigrated(table, error)
  if (inTransaction && ['25P02', '40001', '40P01', '55P03'].includes(code)) return transactionAborted(error)
  if (['40001', '40P01', '55P03'].includes(code)) return databaseError('conflict', error)
  if (code.startsWith('08') || code.startsWith('57P')) return databaseError('connection', error)
  return databaseError('other', error)
}

import { sql } from 'kysely'
import type { SqlAdapter } from '../adapters/adapter.ts'
import { DatabaseError, LockError } from '../errors.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrate.ts'
import { databaseError, notMigrated, Runner, statement, transactionAborted } from './statement.ts'
import type { Attempt, AttemptResult, Hold, LockState, Renewal, Store } from './store.ts'

/** Milliseconds since 1970. SQLite reads it when it needs it first in a statement, and a write has the file's lock by then. */
const now = sql`cast(unixepoch('subsec') * 1000 as integer)`
const clockToken = sql`${now} * 1000`

/**
 * SQLite. There is one writer at a time, so a statement that writes is alone from before it looks until it has committed,
 * and a transaction that has written keeps everybody else from taking any lock.
 */
export function sqliteStatements(naming: Naming) {
  const locks = sql.raw(tableName('sqlite', 'locks', naming))
  const engine = 'sqlite'
  return {
    // WHO HOLDS THE LOCK is decided by the last WHERE.
    acquire: statement<Attempt>(
      engine,
      (p) => sql`
        insert into ${locks} as l (name, owner, token, expires_at, holder)
        values (${p.name}, case when ${p.ttlMs} is not null then ${p.owner} end, ${clockToken},
                ${now} + coalesce(${p.ttlMs}, 0), ${p.holder})
        on conflict (name) do update
        set owner = excluded.owner,
            token = case when l.owner = excluded.owner then l.token else max(l.token + 1, excluded.token) end,
            expires_at = excluded.expires_at,
            holder = excluded.holder,
            takeover = l.owner is not null and l.owner is not excluded.owner
        where l.expires_at <= ${now} or l.owner = excluded.owner
        returning token, takeover`,
    ),

    // A renewal never shortens: a late one is harmless.
    renew: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = max(l.expires_at, ${now} + asked.value ->> 'ttlMs')
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning owner, expires_at - ${now} as remaining`,
    ),

    release: statement<Hold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, expires_at = min(expires_at, ${now})
        where name = ${p.name} and owner = ${p.owner} and token = cast(${p.token} as integer)
        returning 1 as released`,
    ),

    // A write, so that a deferred transaction, too, has the file's write lock from here to its end.
    guard: statement<Hold>(
      engine,
      (p) => sql`
        update ${locks}
        set expires_at = expires_at
        where name = ${p.name} and owner = ${p.owner} and token = cast(${p.token} as integer) and expires_at > ${now}
        returning 1 as stands`,
    ),

    held: statement<{ names: string }>(
      engine,
      (p) => sql`
        select name from ${locks}
        where name in (select value from json_each(${p.names})) and expires_at > ${now}`,
    ),

    list: statement<{ prefix: string }>(
      engine,
      (p) => sql`
        select name, owner, cast(token as text) as token, holder, expires_at - ${now} as remaining
        from ${locks}
        where substr(name, 1, length(${p.prefix})) = ${p.prefix} and owner is not null and expires_at > ${now}
        order by name`,
    ),

    inspect: statement<{ name: string }>(
      engine,
      (p) => sql`
        select name, owner, cast(token as text) as token, holder, expires_at - ${now} as remaining
        from ${locks}
        where name = ${p.name} and owner is not null and expires_at > ${now}`,
    ),

    forceRelease: statement<{ name: string }>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, token = max(token + 1, ${clockToken}), expires_at = ${now}
        where name = ${p.name} and owner is not null and expires_at > ${now}
        returning 1 as forced`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        delete from ${locks}
        where expires_at <= ${now} - ${p.idleMs} and token < ${clockToken}
        returning 1 as purged`,
    ),
  }
}

export function sqliteStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming): Store<Tx> {
  const statements = sqliteStatements(naming)
  const table = tableName('sqlite', 'locks', naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table))

  function toGrant(row: Record<string, unknown>): AttemptResult {
    return { granted: true, token: BigInt(row.token as number | bigint), takeover: Number(row.takeover) === 1 }
  }

  function assertOpen(tx: Tx): void {
    try {
      adapter.queryIn(tx, { text: 'select 1', values: [] })
    } catch (cause) {
      throw new LockError(
        'INVALID_ARGUMENT',
        'the transaction is over: those of a synchronous driver take no async callback. Do not await in it, or say BEGIN IMMEDIATE and COMMIT yourself',
        { cause },
      )
    }
  }

  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,

    async acquire(attempt): Promise<AttemptResult> {
      // Reading waits for no writer: that a lock is held can be told while a transaction keeps the file locked.
      const held = await this.inspect(attempt.name)
      if (held !== null && held.owner !== attempt.owner) return { granted: false, holder: held.holder }
      const [row] = (await runner.run(statements.acquire(attempt))).rows
      return row ? toGrant(row) : { granted: false, holder: (await this.inspect(attempt.name))?.holder ?? null }
    },

    async acquireIn(tx, attempt) {
      const row = await runner.runIn(tx, statements.acquire(attempt), ({ rows }) => rows[0])
      if (adapter.synchronous) assertOpen(tx)
      if (row) return toGrant(row)
      const state = await runner.runIn(tx, statements.inspect(attempt), ({ rows }) => rows[0])
      return { granted: false, holder: (state?.holder as string | undefined) ?? null }
    },

    async releaseIn(tx, hold) {
      const released = await runner.runIn(tx, statements.release(hold), ({ rows }) => rows.length === 1)
      if (adapter.synchronous) assertOpen(tx)
      return released
    },

    async renew(holds): Promise<Renewal[]> {
      const asked = holds.map((hold) => ({ ...hold, token: `${hold.token}` }))
      const { rows } = await runner.run(statements.renew({ holds: JSON.stringify(asked) }))
      const renewed = new Map(rows.map((row) => [row.owner, Number(row.remaining)]))
      return holds.map(({ owner }) => {
        const remainingMs = renewed.get(owner)
        return remainingMs === undefined ? { outcome: 'lost', remainingMs: 0 } : { outcome: 'renewed', remainingMs }
      })
    },

    async release(hold) {
      return (await runner.run(statements.release(hold))).rows.length === 1 ? 'released' : 'lost'
    },

    guard(tx, hold) {
      return runner.runIn(tx, statements.guard(hold), ({ rows }) => (rows.length === 1 ? 'stands' : 'lost'))
    },

    ...(adapter.synchronous && { assertOpen }),

    async query(tx, query) {
      return (await adapter.queryIn(tx, query)).rows
    },

    async free(names) {
      const { rows } = await runner.run(statements.held({ names: JSON.stringify(names) }))
      const held = new Set(rows.map((row) => row.name))
      return new Set(names.filter((name) => !held.has(name)))
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix }))).rows.map(toState)
    },

    async forceRelease(name) {
      try {
        return (await runner.run(statements.forceRelease({ name }))).rows.length === 1 ? 'released' : 'free'
      } catch (error) {
        // A busy file is to us what a locked row is on other engines.
        if (error instanceof DatabaseError && error.failure === 'conflict') return 'locked'
        throw error
      }
    },

    async purge(idleMs) {
      return (await runner.run(statements.purge({ idleMs }))).rows.length
    },

    async openSession() {
      throw new LockError('UNSUPPORTED', "takeover: 'session' needs sessions, which SQLite has none of; use 'expiry'")
    },

    async migrate() {
      try {
        return await adapter.reserve(async (connection) => {
          const run = (text: string) => connection.query({ text, values: [] })
          await run('begin immediate')
          try {
            const history = tableName('sqlite', 'migrations', naming)
            await run(historyStatement('sqlite', naming))
            const done = new Set((await run(`select name from ${history}`)).rows.map((row) => row.name))
            const applied = await applyPending('sqlite', naming, done, run)
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

function toState(row: Record<string, unknown>): LockState {
  return {
    name: row.name as string,
    owner: row.owner as string,
    token: BigInt(row.token as string),
    holder: row.holder as string,
    expiresInMs: Math.max(0, Number(row.remaining)),
  }
}

const SQLITE_BUSY = 5
const SQLITE_LOCKED = 6

function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  if (!(error instanceof Error)) return databaseError('other', error)
  // better-sqlite3 names the result code, node:sqlite gives its number, extended by a high byte.
  const { code, errcode } = error as { code?: unknown; errcode?: unknown }
  const base = typeof errcode === 'number' ? errcode & 0xff : undefined
  const busy = base === SQLITE_BUSY || base === SQLITE_LOCKED || /^SQLITE_(BUSY|LOCKED)/.test(String(code))
  if (busy) return inTransaction ? transactionAborted(error) : databaseError('conflict', error)
  // SQLite has no result code of its own for a missing table; Knex puts the statement before the message.
  if (/\bno such (table|column): /.test(error.message)) return notMigrated(table, error)
  return databaseError('other', error)
}

import { statSync, utimesSync } from 'node:fs'
import { type RawBuilder, sql } from 'kysely'
import type { SqlAdapter } from '../adapters/adapter.ts'
import { DatabaseError, isError, LockError } from '../errors.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrate.ts'
import {
  databaseError,
  isPoolTimeout,
  noRoom,
  notMigrated,
  Runner,
  readOnly,
  statement,
  transactionAborted,
} from './statement.ts'
import {
  type AttemptResult,
  CLAIM_MS,
  type Grant,
  type Hold,
  type LockState,
  type Renewal,
  type Sight,
  type Store,
} from './store.ts'
import { assess, readTopology } from './topology.ts'

/** Milliseconds since 1970. SQLite reads it when it needs it first in a statement, and a write has the file's lock by then. */
const now = sql`cast(unixepoch('subsec') * 1000 as integer)`
const clockToken = sql`${now} * 1000`

/** Nobody holds `l`. Released is free even if the clock was set back since. */
const free = sql`(l.owner is null or l.expires_at <= ${now})`

/**
 * SQLite. There is one writer at a time, so a statement that writes is alone from before it looks until it has committed,
 * and a transaction that has written keeps everybody else from taking any lock.
 *
 * One statement, and so one commit, serves one caller or a thousand: what is asked comes as a JSON array. Queues are JSON
 * arrays, too; json_each tells their elements in order.
 */
export function sqliteStatements(naming: Naming) {
  const locks = sql.raw(tableName('sqlite', 'locks', naming))
  const engine = 'sqlite'

  // WHO HOLDS THE LOCK is decided by the last WHERE, and by who comes first in the queue (see handOver).
  const take = (attempts: RawBuilder<string>, again: RawBuilder<unknown>) => sql`
        insert into ${locks} as l (name, owner, token, expires_at, holder)
        select asked.value ->> 'name',
               case when asked.value ->> 'ttlMs' is not null then asked.value ->> 'owner' end,
               ${clockToken},
               ${now} + coalesce(asked.value ->> 'ttlMs', 0),
               asked.value ->> 'holder'
        from json_each(${attempts}) as asked
        where true
        on conflict (name) do update
        set owner = excluded.owner,
            token = case when ${again} then l.token else max(l.token + 1, excluded.token) end,
            expires_at = excluded.expires_at,
            holder = excluded.holder,
            handed_to = null,
            takeover = case when ${again} then l.takeover else l.owner is not null end
        where ${again} or (l.queue is null and ${free})
        returning name, cast(token as text) as token, takeover`

  // Gives each lock of `source` to the first waiter whose time is not over; those before it are dead, and leave the queue.
  // Without one the lock is free, and the owner is whoever `source` says did not release it.
  const handOver = sql`
        living as materialized (
          select name, owner, takeover, queue,
                 (select key from json_each(queue) where value ->> 'until' > ${now} limit 1) as first
          from source
        ), heir as materialized (
          select name, owner, takeover,
                 queue -> first as entry,
                 case when first = 0 then queue
                      when first > 0 then (select json_group_array(json(value)) from json_each(queue) where key >= first)
                      end as queue
          from living
        )
        update ${locks} as l
        set owner = coalesce((heir.entry ->> 'id') || printf('%016x', max(l.token + 1, ${clockToken})), heir.owner),
            token = case when heir.entry is null then l.token else max(l.token + 1, ${clockToken}) end,
            expires_at = coalesce(${now} + min(heir.entry ->> 'ttl', ${sql.lit(CLAIM_MS)}), min(l.expires_at, ${now})),
            holder = coalesce(heir.entry ->> 'holder', l.holder),
            handed_to = heir.entry ->> 'process',
            takeover = heir.takeover,
            queue = case when heir.entry ->> 'n' > 1 then json_set(heir.queue, '$[0].n', (heir.entry ->> 'n') - 1)
                         else nullif(json_remove(heir.queue, '$[0]'), '[]') end
        from heir
        where l.name = heir.name
        returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - ${now} as remaining`

  const waiters = sql`(select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue))`

  /** What a waiter sees. */
  const sight = sql`
               name, owner, cast(token as text) as token, holder, takeover, expires_at - ${now} as remaining,
               (owner is null or expires_at <= ${now}) as free,
               (select json_group_array(value ->> 'id') from json_each(queue)) as entries`

  return {
    acquire: statement<{ attempts: string }>(engine, (p) => take(p.attempts, sql`l.owner = excluded.owner`)),

    // A hold that is to end with the transaction has no owner in the row; the one who had it before may be the same.
    acquireIn: statement<{ attempts: string; owner: string }>(engine, (p) =>
      take(p.attempts, sql`l.owner = ${p.owner}`),
    ),

    standing: statement<{ names: string }>(
      engine,
      (p) => sql`
        select name, case when not ${free} then owner end as owner, holder, queue is not null as awaited
        from ${locks} as l
        where name in (select value from json_each(${p.names}))`,
    ),

    enqueue: statement<{ arrivals: string; maxWaiters: number }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set queue = case
          when l.queue ->> '$[#-1].id' = asked.value ->> 'joins'
            then json_set(l.queue, '$[#-1].n', (l.queue ->> '$[#-1].n') + (asked.value ->> 'count'),
                                   '$[#-1].until', max(l.queue ->> '$[#-1].until', ${now} + (asked.value ->> 'waitMs')))
          else json_insert(coalesce(l.queue, '[]'), '$[#]', json_object(
                 'id', asked.value ->> 'entry', 'n', asked.value ->> 'count', 'ttl', asked.value ->> 'ttlMs',
                 'holder', asked.value ->> 'holder', 'process', asked.value ->> 'process',
                 'until', ${now} + (asked.value ->> 'waitMs')))
          end
        from json_each(${p.arrivals}) as asked
        where l.name = asked.value ->> 'name' and ${waiters} + (asked.value ->> 'count') <= ${p.maxWaiters}
        returning queue ->> '$[#-1].id' as entry, ${sight}`,
    ),

    waiting: statement<{ names: string }>(
      engine,
      (p) => sql`
        select name, ${waiters} as waiters
        from ${locks} as l
        where name in (select value from json_each(${p.names}))`,
    ),

    // Rows are written as they are if all that is left of the entry is the hold that it was handed.
    leave: statement<{ departures: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set queue = (
          select nullif(json_group_array(json(case
                   when waiting.value ->> 'id' = asked.value ->> 'entry'
                     then json_set(waiting.value, '$.n', (waiting.value ->> 'n') - (asked.value ->> 'count'))
                   else waiting.value end)), '[]')
          from json_each(l.queue) as waiting
          where waiting.value ->> 'id' <> asked.value ->> 'entry' or waiting.value ->> 'n' > asked.value ->> 'count')
        from json_each(${p.departures}) as asked
        where l.name = asked.value ->> 'name'
          and (substr(l.owner, 1, 16) = asked.value ->> 'entry'
               or exists (select 1 from json_each(l.queue) as waiting where waiting.value ->> 'id' = asked.value ->> 'entry'))
        returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - ${now} as remaining`,
    ),

    look: statement<{ names: string }>(
      engine,
      (p) => sql`
        select ${sight}
        from ${locks}
        where name in (select value from json_each(${p.names}))`,
    ),

    // A hand-off that ran out unclaimed: its process is gone or stands still, so none of its callers is next.
    settle: statement<{ names: string }>(
      engine,
      (p) => sql`
        with source as materialized (
          select name, owner, owner is not null as takeover,
                 case when handed_to is null then queue
                      else (select nullif(json_group_array(json(value)), '[]') from json_each(queue)
                            where value ->> 'process' <> handed_to) end as queue
          from ${locks} as l
          where name in (select value from json_each(${p.names})) and queue is not null and ${free}
        ), ${handOver}`,
    ),

    release: statement<{ holds: string }>(
      engine,
      (p) => sql`
        with source as materialized (
          select name, null as owner, 0 as takeover, queue
          from json_each(${p.holds}) as asked
          join ${locks} as l on l.name = asked.value ->> 'name'
          where l.owner = asked.value ->> 'owner' and l.token = cast(asked.value ->> 'token' as integer)
        ), ${handOver}`,
    ),

    releaseIn: statement<Hold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, handed_to = null, expires_at = min(expires_at, ${now})
        where name = ${p.name} and owner = ${p.owner} and token = cast(${p.token} as integer)
        returning queue is not null as awaited`,
    ),

    // A renewal never shortens: a late one is harmless.
    renew: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = max(l.expires_at, ${now} + asked.value ->> 'ttlMs'), handed_to = null
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning name, expires_at - ${now} as remaining`,
    ),

    // A write, so that a deferred transaction, too, has the file's write lock from here to its end.
    guard: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = l.expires_at
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning name`,
    ),

    list: statement<{ prefix: string }>(
      engine,
      (p) => sql`
        select name, owner, cast(token as text) as token, holder, expires_at - ${now} as remaining, ${waiters} as waiters
        from ${locks} as l
        where substr(name, 1, length(${p.prefix})) = ${p.prefix} and not ${free}
        order by name`,
    ),

    inspect: statement<{ name: string }>(
      engine,
      (p) => sql`
        select name, owner, cast(token as text) as token, holder, expires_at - ${now} as remaining, ${waiters} as waiters
        from ${locks} as l
        where name = ${p.name} and not ${free}`,
    ),

    forceRelease: statement<{ name: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set owner = null, handed_to = null, token = max(token + 1, ${clockToken}), expires_at = ${now}
        where name = ${p.name} and not ${free}
        returning 1 as forced`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        delete from ${locks}
        where expires_at <= ${now} - ${p.idleMs} and token < ${clockToken}
          and not exists (select 1 from json_each(queue) where value ->> 'until' > ${now})
        returning 1 as purged`,
    ),

    changingFile: statement<object>(
      engine,
      () => sql`
        select file, journal_mode
        from pragma_database_list, pragma_journal_mode
        where name = 'main'`,
    ),
  }
}

type Row = Record<string, unknown>

export function sqliteStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming): Store<Tx> {
  const statements = sqliteStatements(naming)
  const table = tableName('sqlite', 'locks', naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table))

  /** Reading waits for no writer: that a lock is held can be told while a transaction keeps the file locked. */
  async function standing(of: readonly { readonly name: string }[]): Promise<Map<unknown, Row>> {
    return byName((await runner.run(statements.standing({ names: namesOf(of) }))).rows)
  }

  let opened: OpenedFile | null | undefined

  /**
   * A file that is replaced or deleted stays open, and whoever opens its path from then on has locks in another one. Looked at
   * before each statement that grants or keeps a lock; a look takes some microseconds.
   */
  function otherFile(): DatabaseError | null {
    if (opened == null) return null
    const now = identityOf(opened.path)
    if (now?.device === opened.device && now.inode === opened.inode) return null
    return new DatabaseError(
      'other',
      `the file ${opened.path} was ${now === null ? 'deleted' : 'replaced'} while it was open, so others would not see these locks: close the database, open it again, and make another instance with createLocks`,
      { cause: undefined },
    )
  }

  async function assertSameFile(): Promise<void> {
    if (opened === undefined) {
      const [main] = (await runner.run(statements.changingFile({}))).rows
      opened = main?.file ? identityOf(String(main.file)) : null
    }
    const other = otherFile()
    if (other !== null) throw other
  }

  async function changingFile(): Promise<string | null> {
    const [main] = (await runner.run(statements.changingFile({}))).rows
    if (!main?.file) return null
    return main.journal_mode === 'wal' ? `${main.file}-wal` : `${main.file}`
  }

  let hinted: string | null | undefined

  /**
   * Tells the processes that watch the file of a hand-off to one of them, now that its commit can be seen. Systems update
   * access times on reads, too, but not one that is in the future.
   */
  async function hint(rows: readonly Row[], process: string): Promise<void> {
    if (rows.every(({ handed_to: to }) => to === null || to === process)) return
    try {
      if (hinted === undefined) hinted = await changingFile()
      // Finer than Date.now(): two hand-offs within a millisecond are two changes.
      const seconds = (performance.timeOrigin + performance.now()) / 1000
      if (hinted !== null) utimesSync(hinted, seconds + YEAR_SECONDS, seconds)
    } catch {
      // Those who wait look from time to time.
    }
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

    async acquire(attempts) {
      await assertSameFile()
      const before = await standing(attempts)
      const open = attempts.filter(({ name, owner }) => (before.get(name)?.owner ?? owner) === owner)
      if (open.length === 0) return attempts.map(({ name }) => toRefusal(before.get(name)))
      const taken = byName((await runner.run(statements.acquire({ attempts: JSON.stringify(open) }))).rows)
      const after = taken.size === open.length ? before : await standing(attempts)
      return attempts.map(({ name }) => toGranted(taken.get(name)) ?? toRefusal(after.get(name)))
    },

    async acquireIn(tx, attempt) {
      const other = otherFile()
      if (other !== null) throw other
      const attempts = JSON.stringify([attempt])
      const taken = await runner.runIn(tx, statements.acquireIn({ attempts, owner: attempt.owner }), ({ rows }) =>
        toGranted(rows[0]),
      )
      if (adapter.synchronous) assertOpen(tx)
      if (taken?.granted === true) return { granted: true, owner: attempt.owner, token: taken.token }
      return runner.runIn(tx, statements.standing({ names: namesOf([attempt]) }), ({ rows: [row] }) => toRefusal(row))
    },

    async enqueue(arrivals, maxWaiters) {
      await assertSameFile()
      const { rows } = await runner.run(statements.enqueue({ arrivals: JSON.stringify(arrivals), maxWaiters }))
      const queued = byName(rows)
      const rest = arrivals.filter(({ name }) => !queued.has(name))
      const queues =
        rest.length === 0 ? queued : byName((await runner.run(statements.waiting({ names: namesOf(rest) }))).rows)
      return arrivals.map(({ name, count }) => {
        const row = queued.get(name)
        if (row !== undefined) return { outcome: 'queued', entry: row.entry as string, sight: toSight(row) }
        // A row that is there, with room in its queue, was created since.
        return { outcome: Number(queues.get(name)?.waiters ?? 0) + count > maxWaiters ? 'full' : 'missing' }
      })
    },

    async leave(departures) {
      const { rows } = await runner.run(statements.leave({ departures: JSON.stringify(departures) }))
      const rest = byName(rows)
      return departures.map(({ name, entry }) => {
        const row = rest.get(name)
        const handed = String(row?.owner).startsWith(entry) && Number(row?.remaining) > 0
        return { left: true, grant: handed ? toGrant(row) : null }
      })
    },

    async look(names) {
      return (await runner.run(statements.look({ names: JSON.stringify(names) }))).rows.map(toSight)
    },

    async settle(names, process) {
      const { rows } = await runner.run(statements.settle({ names: JSON.stringify(names) }))
      void hint(rows, process)
      const settled = byName(rows)
      const rest = settled.size === names.length ? settled : await standing(names.map((name) => ({ name })))
      const grants = names.map((name) => toGrant(settled.get(name)))
      return names.map((name, index) => {
        const grant = grants[index]!
        if (grant !== null) return { outcome: 'handed over', grant }
        const held = !settled.has(name) && (rest.get(name)?.owner ?? null) !== null
        return { outcome: held ? 'held' : 'idle', grant }
      })
    },

    async release(holds, process) {
      const { rows } = await runner.run(statements.release({ holds: toJson(holds) }))
      void hint(rows, process)
      const released = byName(rows)
      return holds.map(({ name }) => {
        const grant = toGrant(released.get(name))
        const outcome = released.has(name) ? 'released' : 'lost'
        return { outcome, handedOver: grant !== null, grant, unsettled: false }
      })
    },

    async releaseIn(tx, hold) {
      const released = await runner.runIn(tx, statements.releaseIn(hold), ({ rows: [row] }) => row)
      if (adapter.synchronous) assertOpen(tx)
      return released === undefined ? 'lost' : { awaited: Number(released.awaited) === 1 }
    },

    async renew(holds): Promise<Renewal[]> {
      if (otherFile() !== null) return holds.map(() => ({ outcome: 'lost', remainingMs: 0 }))
      // A power failure ends the holder, too.
      const renewal = { ...statements.renew({ holds: toJson(holds) }), durable: false }
      const renewed = byName((await runner.run(renewal)).rows)
      return holds.map(({ name }) => {
        const row = renewed.get(name)
        return row ? { outcome: 'renewed', remainingMs: Number(row.remaining) } : { outcome: 'lost', remainingMs: 0 }
      })
    },

    guard(tx, holds) {
      if (otherFile() !== null) return holds.map(() => 'lost')
      return runner.runIn(tx, statements.guard({ holds: toJson(holds) }), ({ rows }) => {
        const standing = byName(rows)
        return holds.map(({ name }) => (standing.has(name) ? 'stands' : 'lost'))
      })
    },

    ...(adapter.synchronous && { assertOpen }),

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
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

    changingFile,

    async openSession() {
      throw new LockError('UNSUPPORTED', "takeover: 'session' needs sessions, which SQLite has none of; use 'expiry'")
    },

    assess: async () => assess(await readTopology('sqlite', (query) => runner.run(query))),

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

interface OpenedFile {
  readonly path: string
  readonly device: bigint
  readonly inode: bigint
}

/** Null if there is no such file. */
function identityOf(path: string): OpenedFile | null {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false })
  return stats === undefined ? null : { path, device: stats.dev, inode: stats.ino }
}

function byName(rows: readonly Row[]): Map<unknown, Row> {
  return new Map(rows.map((row) => [row.name, row]))
}

function namesOf(asked: readonly { readonly name: string }[]): string {
  return JSON.stringify(asked.map(({ name }) => name))
}

/** JSON has no bigint. */
function toJson(holds: readonly Hold[]): string {
  return JSON.stringify(holds.map((hold) => ({ ...hold, token: `${hold.token}` })))
}

function toGranted(row: Row | undefined): AttemptResult | undefined {
  if (row === undefined) return undefined
  return { granted: true, token: BigInt(row.token as string), takeover: Number(row.takeover) === 1 }
}

/** A row of `standing`, or none if the lock has never been held. */
function toRefusal(row: Row | undefined): Extract<AttemptResult, { granted: false }> {
  if (row == null || row.owner === null) {
    return { granted: false, holder: null, queued: Number(row?.awaited) === 1 }
  }
  return { granted: false, holder: row.holder as string, queued: false }
}

/** What was handed over and has not been claimed; null for any other row. */
function toGrant(row: Row | undefined): Grant | null {
  if (row === undefined || row.handed_to === null) return null
  const { remaining, takeover } = row
  return {
    ...toHold(row),
    process: row.handed_to as string,
    remainingMs: Number(remaining),
    takeover: Number(takeover) === 1,
  }
}

function toSight(row: Row): Sight {
  const { remaining, takeover } = row
  const isFree = Number(row.free) === 1
  const entries = JSON.parse(row.entries as string) as string[]
  return {
    name: row.name as string,
    holder: isFree
      ? null
      : {
          ...toHold(row),
          label: row.holder as string,
          remainingMs: Number(remaining),
          takeover: Number(takeover) === 1,
        },
    bySession: false,
    ready: isFree && entries.length > 0,
    leasesWait: entries.length > 0,
    entries,
  }
}

function toState(row: Row): LockState {
  return {
    ...toHold(row),
    holder: row.holder as string,
    expiresInMs: Math.max(0, Number(row.remaining)),
    waiters: Number(row.waiters),
  }
}

function toHold(row: Row): Hold {
  return { name: row.name as string, owner: row.owner as string, token: BigInt(row.token as string) }
}

const YEAR_SECONDS = 365 * 24 * 60 * 60

const SQLITE_BUSY = 5
const SQLITE_LOCKED = 6
const SQLITE_READONLY = 8
const SQLITE_FULL = 13

function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  if (!isError(error)) return databaseError('other', error)
  // better-sqlite3 names the result code, node:sqlite gives its number, extended by a high byte.
  const { code, errcode } = error as { code?: unknown; errcode?: unknown }
  const base = typeof errcode === 'number' ? errcode & 0xff : undefined
  const busy = base === SQLITE_BUSY || base === SQLITE_LOCKED || /^SQLITE_(BUSY|LOCKED)/.test(String(code))
  if (busy) return inTransaction ? transactionAborted(error) : databaseError('conflict', error)
  // better-sqlite3 refuses to write meanwhile, and says so by a TypeError without a code; the statement was not begun.
  if (/\bdatabase connection is busy executing a query\b/.test(error.message)) {
    return new DatabaseError(
      'conflict',
      'a statement is in progress on this SQLite handle, as of iterate(); rowlock waits for its end. Read its rows with all(), or give rowlock a handle of its own',
      { cause: error },
    )
  }
  // SQLite has no result code of its own for a missing table; Knex puts the statement before the message.
  if (/\bno such (table|column): /.test(error.message)) return notMigrated(table, error)
  if (isPoolTimeout(error) || base === SQLITE_FULL || code === 'SQLITE_FULL') return noRoom(error)
  if (base === SQLITE_READONLY || /^SQLITE_READONLY/.test(String(code))) return readOnly(error)
  return databaseError('other', error)
}

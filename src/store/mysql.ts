import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import type { Result, SqlAdapter } from '../adapters/adapter.ts'
import { DatabaseError, LockError } from '../errors.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrate.ts'
import {
  compile,
  databaseError,
  isConnectionFailure,
  noTransaction,
  notMigrated,
  Runner,
  statement,
  transactionAborted,
} from './statement.ts'
import type { Attempt, AttemptResult, Hold, HolderSession, LockState, Renewal, Store } from './store.ts'

/** GET_LOCK name under which the processes that migrate one server take turns, and how long they wait for it. */
const MIGRATION_LOCK = 'rowlock:migrate'
const MIGRATION_WAIT_SECONDS = 60

/** Microseconds since 1970 by the server's clock, in UTC whatever the session's time zone, fixed when a statement starts. */
const now = sql`timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))`

/**
 * MySQL and MariaDB. Text travels as binary: no collation, no character set and no sql_mode has a say in it.
 *
 * UPDATE knows no NOWAIT, so each statement that changes a row finds it in a derived table FOR UPDATE SKIP LOCKED and
 * waits for nobody; `now`, read when the statement starts, is therefore never stale. The LIMIT keeps the optimizer from
 * merging that table into the update, which would silently drop the SKIP LOCKED; STRAIGHT_JOIN and FORCE INDEX keep it from
 * scanning a small table, which would lock all of its rows and wait for each. What a statement did comes back as
 * last_insert_id(): affectedRows counts matched or changed rows as the client wishes, so it proves something only when it
 * counts every row.
 */
export function mysqlStatements(naming: Naming) {
  const locks = sql.raw(tableName('mysql', 'locks', naming))
  const engine = 'mysql'
  return {
    // WHO HOLDS THE LOCK is decided by the WHERE of `free`. insertId is the token; negative if the last holder had not released.
    acquire: statement<Bound<Attempt> & { deadSession: Buffer | null }>(
      engine,
      (p) => sql`
        update (
          select name,
                 case when owner = ${p.owner} then token else greatest(token + 1, ${now}) end as next_token,
                 case when owner is null or owner = ${p.owner} then 1 else -1 end as sign
          from ${locks} force index (primary)
          where name = ${p.name} and (owner = ${p.owner} or expires_at <= ${now} or session = ${p.deadSession})
          limit 1
          for update skip locked
        ) as free
        straight_join ${locks} as l force index (primary) on l.name = free.name
        set l.owner = case when ${p.ttlMs} is not null then ${p.owner} end,
            l.token = free.next_token,
            l.expires_at = ${now} + coalesce(${p.ttlMs}, 0) * 1000 + 0 * last_insert_id(free.sign * free.next_token),
            l.holder = ${p.holder},
            l.session = ${p.session}`,
    ),

    create: statement<Bound<Attempt>>(
      engine,
      (p) => sql`
        insert ignore into ${locks} (name, owner, token, expires_at, holder, session)
        values (${p.name}, ${p.owner}, last_insert_id(${now}), ${now} + ${p.ttlMs} * 1000, ${p.holder}, ${p.session})`,
    ),

    // In a transaction, behind another one that has the row locked: the same decision, but it waits for the row. What the
    // other one leaves is seen then; `now` is from before, which errs on the side of the holder.
    acquireBehind: statement<Bound<Attempt>>(
      engine,
      (p) => sql`
        update ${locks}
        set token = last_insert_id(greatest(token + 1, ${now})),
            owner = case when ${p.ttlMs} is not null then ${p.owner} end,
            holder = ${p.holder},
            session = null,
            expires_at = ${now} + coalesce(${p.ttlMs}, 0) * 1000
        where name = ${p.name} and expires_at <= ${now}`,
    ),

    // For a transaction: if it created the row itself, others would have to wait for its end to learn whether there is one.
    createFree: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        insert ignore into ${locks} (name, token, expires_at) values (${p.name}, ${now}, ${now})`,
    ),

    // Why an attempt failed. A session that is gone stays gone: its name is random and never reused.
    look: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        select expires_at > ${now} as held, holder, session,
               case when session is null then 0 else is_free_lock(session) end as gone
        from ${locks}
        where name = ${p.name}`,
    ),

    releaseIn: statement<Bound<Hold>>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, session = null, expires_at = least(expires_at, ${now}) + 0 * last_insert_id(token)
        where name = ${p.name} and owner = ${p.owner} and token = ${p.token}`,
    ),

    release: statement<Bound<Hold>>(
      engine,
      (p) => sql`
        update (
          select name, token from ${locks} force index (primary)
          where name = ${p.name} and owner = ${p.owner} and token = ${p.token}
          limit 1
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        set l.owner = null, l.session = null, l.expires_at = least(l.expires_at, ${now}) + 0 * last_insert_id(mine.token)`,
    ),

    ours: statement<Bound<Hold>>(
      engine,
      (p) => sql`
        select 1 as ours from ${locks} where name = ${p.name} and owner = ${p.owner} and token = ${p.token}`,
    ),

    // A write, not a locking read: on Galera and in multi-primary groups only a write takes part in certification.
    guard: statement<Bound<Hold & { ttlMs: number }>>(
      engine,
      (p) => sql`
        update ${locks}
        set expires_at = greatest(expires_at, ${now} + ${p.ttlMs} * 1000) + 0 * last_insert_id(token)
        where name = ${p.name} and owner = ${p.owner} and token = ${p.token} and expires_at > ${now}`,
    ),

    // In name order, so that two batches cannot deadlock. A renewal never shortens: a late one is harmless.
    renew: (holds: readonly Hold[], ttlMs: number) =>
      compile(
        engine,
        sql`
        update (
          select name from ${locks} force index (primary)
          where name in (${sql.join(holds.map(({ name }) => bytes(name)))})
            and (name, owner, token) in (${sql.join(
              holds.map(({ name, owner, token }) => sql`(${bytes(name)}, ${bytes(owner)}, ${token})`),
            )})
            and expires_at > ${now}
          order by name
          limit ${sql.lit(holds.length)}
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        set l.expires_at = greatest(l.expires_at, ${now} + ${ttlMs} * 1000)`,
      ),

    remaining: (holds: readonly Hold[]) =>
      compile(
        engine,
        sql`
        select name, owner, token, (expires_at - ${now}) / 1000 as remaining
        from ${locks}
        where name in (${sql.join(holds.map(({ name }) => bytes(name)))}) and expires_at > ${now}`,
      ),

    free: (names: readonly string[]) =>
      compile(
        engine,
        sql`
        select name from ${locks}
        where name in (${sql.join(names.map(bytes))})
          and expires_at > ${now} and (session is null or is_free_lock(session) = 0)`,
      ),

    list: statement<{ prefix: Buffer }>(
      engine,
      (p) => sql`
        select name, owner, token, holder, (expires_at - ${now}) / 1000 as remaining
        from ${locks}
        where left(name, length(${p.prefix})) = ${p.prefix}
          and owner is not null and expires_at > ${now} and (session is null or is_free_lock(session) = 0)
        order by name`,
    ),

    inspect: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        select name, owner, token, holder, (expires_at - ${now}) / 1000 as remaining
        from ${locks}
        where name = ${p.name}
          and owner is not null and expires_at > ${now} and (session is null or is_free_lock(session) = 0)`,
    ),

    forceRelease: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        update (
          select name, greatest(token + 1, ${now}) as next_token
          from ${locks} force index (primary)
          where name = ${p.name} and owner is not null and expires_at > ${now}
          limit 1
          for update skip locked
        ) as held
        straight_join ${locks} as l force index (primary) on l.name = held.name
        set l.owner = null, l.session = null, l.token = held.next_token,
            l.expires_at = ${now} + 0 * last_insert_id(held.next_token)`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purgeable: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        select name from ${locks} where expires_at <= ${now} - ${p.idleMs} * 1000 and token < ${now} order by name`,
    ),

    purge: (names: readonly Buffer[], idleMs: number) =>
      compile(
        engine,
        sql`
        delete l from (
          select name from ${locks} force index (primary)
          where name in (${sql.join(names)}) and expires_at <= ${now} - ${idleMs} * 1000 and token < ${now}
          order by name
          limit ${sql.lit(names.length)}
          for update skip locked
        ) as idle
        straight_join ${locks} as l force index (primary) on l.name = idle.name`,
      ),
  }
}

/** Rows named in one statement. More would make packets and lock lists long without saving time. */
const BATCH = 1000

export function mysqlStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming): Store<Tx> {
  const statements = mysqlStatements(naming)
  const table = tableName('mysql', 'locks', naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table))

  async function renewBatch(holds: readonly Hold[], ttlMs: number): Promise<Map<string, Renewal>> {
    const started = performance.now()
    const { affectedRows } = await runner.run(statements.renew(holds, ttlMs))
    if (Number(affectedRows) === holds.length) {
      return new Map(holds.map(({ owner }) => [owner, { outcome: 'renewed', remainingMs: ttlMs }]))
    }
    const { rows } = await runner.run(statements.remaining(holds))
    const elapsed = performance.now() - started
    const found = new Map(rows.map((row) => [`${text(row.owner)} ${row.token}`, Number(row.remaining)]))
    return new Map(
      holds.map(({ owner, token }): [string, Renewal] => {
        const remainingMs = found.get(`${owner} ${token}`)
        if (remainingMs === undefined) return [owner, { outcome: 'lost', remainingMs: 0 }]
        // The expiry was moved if no more of the ttl is gone than these two statements took.
        return [owner, { outcome: remainingMs >= ttlMs - elapsed ? 'renewed' : 'held', remainingMs }]
      }),
    )
  }

  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,

    async acquire(attempt): Promise<AttemptResult> {
      const values = bind(attempt)
      const first = tokenOf(await runner.run(statements.acquire({ ...values, deadSession: null })))
      if (first !== 0n) return granted(first)
      const [row] = (await runner.run(statements.look({ name: values.name }))).rows
      if (row === undefined) {
        const created = await runner.run(statements.create(values))
        // last_insert_id() is set before the duplicate is found; but a row that IGNORE left out is never counted.
        return Number(created.affectedRows) === 1 ? granted(tokenOf(created)) : { granted: false, holder: null }
      }
      if (Number(row.gone) === 1) {
        const second = tokenOf(await runner.run(statements.acquire({ ...values, deadSession: row.session as Buffer })))
        if (second !== 0n) return granted(second)
      }
      return { granted: false, holder: Number(row.held) === 1 ? text(row.holder) : null }
    },

    async acquireIn(tx, attempt) {
      const values = bind(attempt)
      // Looked at on another connection first. In the transaction, a plain read would fix its snapshot, and at REPEATABLE
      // READ even a locking read that finds nothing would keep a gap locked, or the row of a holder who has to renew.
      const [row] = (await runner.run(statements.look({ name: values.name }))).rows
      const gone = Number(row?.gone) === 1
      if (row === undefined) await runner.run(statements.createFree({ name: values.name }))
      else if (Number(row.held) === 1 && !gone) return { granted: false, holder: text(row.holder) }
      const query = statements.acquire({ ...values, deadSession: gone ? (row?.session as Buffer) : null })
      const { token, inTransaction } = await runner.runIn(tx, query, (result) => ({
        ...result,
        token: tokenOf(result),
      }))
      if (inTransaction === false) {
        // It has committed: a lease must be undone.
        if (attempt.ttlMs !== null) {
          await runner.run(statements.acquire({ ...values, deadSession: null, ttlMs: null }))
        }
        throw noTransaction('within(tx)')
      }
      return token === 0n ? { granted: false, holder: null } : granted(token)
    },

    async acquireBehind(tx, attempt, waitMs) {
      // The engine counts in seconds.
      if (waitMs < 1000) return this.acquireIn(tx, attempt)
      const run = (query: string) => runner.runIn(tx, { text: query, values: [] }, ({ rows }) => rows[0])
      const before = (await run('select @@session.innodb_lock_wait_timeout as seconds'))?.seconds
      await run(`set session innodb_lock_wait_timeout = ${Math.floor(waitMs / 1000)}`)
      const restore = () => run(`set session innodb_lock_wait_timeout = ${Number(before)}`)
      let token: bigint
      try {
        token = await runner.runIn(tx, statements.acquireBehind(bind(attempt)), tokenOf)
      } catch (error) {
        await restore()
        if (!(error instanceof LockError) || errnoOf(error.cause) !== LOCK_WAIT_TIMEOUT) throw error
        return { granted: false, holder: null }
      }
      await restore()
      if (token !== 0n) return granted(token)
      // InnoDB may have locked the row of somebody's lease, which must not last.
      throw transactionAborted(new Error('a lease took the lock that this transaction was waiting for'))
    },

    async releaseIn(tx, hold) {
      return runner.runIn(tx, statements.releaseIn(bind(hold)), (result) => {
        if (result.inTransaction === false) throw noTransaction('release(tx)')
        return tokenOf(result) !== 0n
      })
    },

    async renew(holds): Promise<Renewal[]> {
      const renewals = new Map<string, Renewal>()
      for (const ttlMs of new Set(holds.map((hold) => hold.ttlMs))) {
        const group = holds.filter((hold) => hold.ttlMs === ttlMs)
        for (let from = 0; from < group.length; from += BATCH) {
          for (const [owner, renewal] of await renewBatch(group.slice(from, from + BATCH), ttlMs)) {
            renewals.set(owner, renewal)
          }
        }
      }
      return holds.map(({ owner }) => renewals.get(owner)!)
    },

    async release(hold) {
      const values = bind(hold)
      if (tokenOf(await runner.run(statements.release(values))) !== 0n) return 'released'
      return (await runner.run(statements.ours(values))).rows.length === 0 ? 'lost' : 'locked'
    },

    guard(tx, hold) {
      return runner.runIn(tx, statements.guard(bind(hold)), (result) => {
        if (result.inTransaction === false) throw noTransaction('guard(tx)')
        return tokenOf(result) === 0n ? 'lost' : 'stands'
      })
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, query)).rows
    },

    async free(names) {
      const free = new Set(names)
      for (let from = 0; from < names.length; from += BATCH) {
        const { rows } = await runner.run(statements.free(names.slice(from, from + BATCH)))
        for (const row of rows) free.delete(text(row.name))
      }
      return free
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name: bytes(name) }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix: bytes(prefix) }))).rows.map(toState)
    },

    async forceRelease(name) {
      if (tokenOf(await runner.run(statements.forceRelease({ name: bytes(name) }))) !== 0n) return 'released'
      return (await this.inspect(name)) === null ? 'free' : 'locked'
    },

    async purge(idleMs) {
      const names = (await runner.run(statements.purgeable({ idleMs }))).rows.map((row) => row.name as Buffer)
      for (let from = 0; from < names.length; from += BATCH) {
        await runner.run(statements.purge(names.slice(from, from + BATCH), idleMs))
      }
      const left = (await runner.run(statements.purgeable({ idleMs }))).rows.length
      return Math.max(0, names.length - left)
    },

    async openSession(onLost): Promise<HolderSession> {
      if (adapter.dedicate === undefined) {
        throw new LockError(
          'UNSUPPORTED',
          "takeover: 'session' needs a connection of rowlock's own, which this adapter cannot open: use fromMysql2, or fromKysely with its sessions option",
        )
      }
      const connection = await adapter.dedicate()
      try {
        const variables = await connection.query({
          text: "show variables where variable_name in ('wsrep_on', 'group_replication_single_primary_mode')",
          values: [],
        })
        for (const row of variables.rows) {
          const setting = `${row.Variable_name}=${row.Value}`
          if (setting === 'wsrep_on=ON' || setting === 'group_replication_single_primary_mode=OFF') {
            throw new LockError(
              'UNSUPPORTED',
              `takeover: 'session' needs a single primary, because GET_LOCK knows one node only, and here ${setting}; use takeover: 'expiry'`,
            )
          }
        }
        const id = `rowlock:${randomBytes(16).toString('hex')}`
        const { rows } = await connection.query({
          // In a session that is a proxy's own the lock would stay behind.
          text: 'select connection_id() as backend, case when coalesce(?, connection_id()) = connection_id() then get_lock(?, 0) end as locked',
          values: [connection.backendId ?? null, id],
        })
        if (connection.backendId !== undefined && connection.backendId !== Number(rows[0]?.backend)) {
          throw new LockError(
            'UNSUPPORTED',
            "takeover: 'session' needs a direct connection: a proxy that shares sessions stands between. Give fromMysql2 a direct pool as its sessions option, or use takeover: 'expiry'",
          )
        }
        if (Number(rows[0]?.locked) !== 1)
          throw new DatabaseError('other', 'the session lock could not be taken', { cause: undefined })
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
          const run = (query: string, values: unknown[] = []) => connection.query({ text: query, values })
          const { rows } = await run('select get_lock(?, ?) as locked', [MIGRATION_LOCK, MIGRATION_WAIT_SECONDS])
          if (Number(rows[0]?.locked) !== 1) {
            throw new LockError(
              'DATABASE',
              `another process has been migrating for ${MIGRATION_WAIT_SECONDS} s; look for it, or try again`,
            )
          }
          try {
            return await applyPending('mysql', naming, await applied(run, naming), run)
          } finally {
            await run('select release_lock(?)', [MIGRATION_LOCK])
          }
        })
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}

/** Names of the migrations that ran. Makes the table of them only if it is missing, for which an application may have no right. */
async function applied(run: (query: string) => Promise<Result>, naming: Naming): Promise<Set<string>> {
  try {
    const { rows } = await run(`select name from ${tableName('mysql', 'migrations', naming)}`)
    return new Set(rows.map((row) => text(row.name)))
  } catch (error) {
    if ((error as { errno?: unknown } | null | undefined)?.errno !== NO_SUCH_TABLE) throw error
    await run(historyStatement('mysql', naming))
    return new Set()
  }
}

type Bound<Values> = {
  [Key in keyof Values]: Values[Key] extends string | null ? Exclude<Values[Key], string> | Buffer : Values[Key]
}

function bind<Values extends object>(values: Values): Bound<Values> {
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => [key, typeof value === 'string' ? bytes(value) : value]),
  ) as Bound<Values>
}

function bytes(value: string): Buffer {
  return Buffer.from(value, 'utf8')
}

function text(value: unknown): string {
  return Buffer.isBuffer(value) ? value.toString('utf8') : String(value)
}

function tokenOf({ insertId }: Result): bigint {
  return BigInt(insertId ?? 0)
}

function granted(token: bigint): AttemptResult {
  return { granted: true, token: token < 0n ? -token : token, takeover: token < 0n }
}

function toState(row: Record<string, unknown>): LockState {
  return {
    name: text(row.name),
    owner: text(row.owner),
    token: BigInt(row.token as string | number),
    holder: text(row.holder),
    expiresInMs: Math.max(0, Number(row.remaining)),
  }
}

const DEADLOCK = 1213
const LOCK_WAIT_TIMEOUT = 1205
const NO_WAIT_REFUSED = 3572
const CHANGED_SINCE_SNAPSHOT = 1020
const CONFLICTS = [DEADLOCK, LOCK_WAIT_TIMEOUT, NO_WAIT_REFUSED, CHANGED_SINCE_SNAPSHOT]
const NO_SUCH_TABLE = 1146
const NO_SUCH_COLUMN = 1054
/** Shutting down, killed, node not ready (Galera), server gone or lost, read-only while failing over. */
const NO_SERVER = [1053, 1317, 1927, 1047, 2006, 2013, 1290, 1836, 4031]
/** The driver `mariadb` numbers its own errors, too: connection or pool closed, cut off, or not there in time. */
const NO_CONNECTION = [45001, 45004, 45009, 45012, 45013, 45019, 45026, 45028, 45042, 45061]

function errnoOf(error: unknown): unknown {
  return (error as { errno?: unknown } | null | undefined)?.errno
}

function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  const errno = errnoOf(error)
  if (typeof errno !== 'number' || errno < 0) {
    return databaseError(isConnectionFailure(error) ? 'connection' : 'other', error)
  }
  if (errno === NO_SUCH_TABLE || errno === NO_SUCH_COLUMN) return notMigrated(table, error)
  if (CONFLICTS.includes(errno)) return inTransaction ? transactionAborted(error) : databaseError('conflict', error)
  return databaseError([...NO_SERVER, ...NO_CONNECTION].includes(errno) ? 'connection' : 'other', error)
}

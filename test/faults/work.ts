import { setTimeout as sleep } from 'node:timers/promises'
import type Sqlite from 'better-sqlite3'
import mysql from 'mysql2/promise'
import pg from 'pg'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { fromBetterSqlite3 } from '../../src/adapters/better-sqlite3.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import type { Adapter, Lease } from '../../src/index.ts'
import type { Outcome, Stay, Write } from './history.ts'

export type Dialect = 'postgres' | 'mysql' | 'sqlite'

/** What became of a transaction. */
export type Ending = { readonly stay?: Stay | undefined } & (
  | { readonly outcome: 'ok' }
  | { readonly outcome: Exclude<Outcome, 'ok'>; readonly error: string }
)

/** What check-then-act looks at. Times are of Date.now(): all processes are on one machine. */
export interface Flag {
  readonly holder: string | null
  readonly expiresAt: number
}

export type NewEntry = Pick<Write, 'operation' | 'lock' | 'token' | 'owner' | 'value' | 'weight'>
export type WorkRow = Readonly<Record<string, unknown>>

/** The work that locks are to protect, on one database, through the driver that an application would use. */
export interface Work {
  readonly adapter: Adapter<unknown>
  /** The counter of a lock. In `tx` or by itself. */
  read(lock: string, tx?: unknown): Promise<number>
  /**
   * One transaction, of the engine's default isolation unless `readsLatest`: then each read in it sees what is committed.
   * What fails before the commit is sent has failed; a commit without a plain answer is `info`.
   */
  transact(body: (tx: unknown) => Promise<void> | void, readsLatest?: boolean): Promise<Ending>
  /** Writes the counter and appends the entry. Synchronous on SQLite. */
  write(tx: unknown, entry: NewEntry): Promise<void> | void
  /** A statement in `tx`, with $1, $2 for its values, each once and in that order. Synchronous on SQLite. */
  query(tx: unknown, text: string, values: readonly unknown[]): Promise<readonly WorkRow[]> | readonly WorkRow[]
  /** The counter of a lock, in `tx`, under the lease's guard, in as few round trips as the engine allows. */
  guardedRead(tx: unknown, lease: Lease<unknown>): Promise<number>
  /** The same in as few round trips as the engine allows, under the lease's guard. */
  guardedWrite(tx: unknown, lease: Lease<unknown>, entry: NewEntry): Promise<void> | void
  readFlag(lock: string): Promise<Flag>
  writeFlag(lock: string, flag: Flag): Promise<void>
  /** Takes every connection there is for some time. */
  exhaust(milliseconds: number): Promise<void>
  /** Loses all notifications for some time; answers how many. */
  dropNotifications(milliseconds: number): Promise<number>
  close(): Promise<void>
}

/** Many callers want the first few guarded locks, so that they queue; the others keep the server busy meanwhile. */
export const HOT_LOCKS = 3
/** Of each semaphore. */
export const PERMITS = 5
/** Longer than a statement of the work takes on a busy machine; shorter than what the nemesis does to the rows. */
export const STATEMENT_TIMEOUT_MS = 1500
/** The least that InnoDB can wait for a row, in seconds. */
const INNODB_PATIENCE_S = 1
/** Short, so that deadlocks are found while they are one. */
const DEADLOCK_TIMEOUT_MS = 200
const CONNECT_TIMEOUT_MS = 2000
const POOL_SIZE = 10

export function connectWork(dialect: Dialect, url: string, poolSize = POOL_SIZE): Promise<Work> {
  return { postgres: postgresWork, mysql: mysqlWork, sqlite: sqliteWork }[dialect](url, poolSize)
}

const failed = (error: unknown): Ending => ({ outcome: 'fail', error: describe(error) })
const unknown = (error: unknown): Ending => ({ outcome: 'info', error: describe(error) })

/** Short and without what differs from case to case, so that equal errors can be counted. */
export function describe(error: unknown): string {
  const { code, message, cause } = error as { code?: unknown; message?: string; cause?: unknown }
  const own = typeof code === 'string' ? code : String(message).replace(/\d+/g, 'N').slice(0, 80)
  return cause instanceof Error ? `${own} < ${describe(cause)}` : own
}

async function postgresWork(url: string, poolSize: number): Promise<Work> {
  const pool = new pg.Pool({
    connectionString: url,
    max: poolSize,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    options: `-c deadlock_timeout=${DEADLOCK_TIMEOUT_MS}`,
  })
  pool.on('error', () => undefined)
  pool.on('connect', (client) => client.on('error', () => undefined))
  const client = (tx: unknown) => tx as pg.PoolClient
  const { adapter, dropNotifications } = forgetful(fromPg(pool))
  return {
    adapter: adapter as Adapter<unknown>,
    dropNotifications,
    async read(lock, tx) {
      const { rows } = await (tx === undefined ? pool : client(tx)).query({
        name: 'work_read',
        text: 'select value from work_counters where name = $1',
        values: [lock],
      })
      return Number(rows[0].value)
    },
    async transact(body) {
      let tx: pg.PoolClient
      try {
        tx = await pool.connect()
      } catch (error) {
        return failed(error)
      }
      let broken = true
      try {
        await tx.query('begin')
        await body(tx)
      } catch (error) {
        broken = await isBrokenAfter(tx.query('rollback'))
        tx.release(broken)
        return failed(error)
      }
      try {
        // A transaction that has failed answers a commit with ROLLBACK, and no error.
        const { command } = await tx.query('commit')
        broken = false
        return command === 'COMMIT' ? { outcome: 'ok' } : unknown(new Error(`the commit answered ${command}`))
      } catch (error) {
        return unknown(error)
      } finally {
        tx.release(broken)
      }
    },
    // The row appended gets its seq when the counter's row is locked: so it is the order of commits.
    async write(tx, entry) {
      await client(tx).query({
        name: 'work_write',
        text: `
          with counted as (update work_counters set value = $5 where name = $1 returning name)
          insert into work_entries (name, token, owner, operation, value) select name, $2, $3, $4, $5 from counted`,
        values: [entry.lock, entry.token, entry.owner, entry.operation, entry.value],
      })
    },
    async query(tx, text, values) {
      const { rows } = await client(tx).query(text, [...values])
      return rows
    },
    async guardedRead(tx, lease) {
      const values = [lease.name]
      const [row] = await lease.guarded(tx, { text: 'select value from work_counters where name = $1', values })
      return Number((row as WorkRow).value)
    },
    async guardedWrite(tx, lease, { lock, token, owner, operation, value }) {
      await lease.guarded(tx, { text: 'update work_counters set value = $2 where name = $1', values: [lock, value] })
      await client(tx).query({
        name: 'work_append',
        text: 'insert into work_entries (name, token, owner, operation, value) values ($1, $2, $3, $4, $5)',
        values: [lock, token, owner, operation, value],
      })
    },
    async readFlag(lock) {
      const { rows } = await pool.query('select holder, expires_at from work_flags where name = $1', [lock])
      return { holder: rows[0].holder, expiresAt: Number(rows[0].expires_at) }
    },
    async writeFlag(lock, { holder, expiresAt }) {
      await pool.query('update work_flags set holder = $2, expires_at = $3 where name = $1', [lock, holder, expiresAt])
    },
    exhaust: (milliseconds) =>
      hold(poolSize, milliseconds, async () => {
        const taken = await pool.connect()
        return () => taken.release()
      }),
    close: () => pool.end(),
  }
}

async function mysqlWork(url: string, poolSize: number): Promise<Work> {
  const pool = mysql.createPool({ uri: url, connectionLimit: poolSize, connectTimeout: CONNECT_TIMEOUT_MS })
  pool.pool.on('connection', (connection) => {
    connection.on('error', () => undefined)
    connection.query(`set session innodb_lock_wait_timeout = ${INNODB_PATIENCE_S}`, () => undefined)
  })
  const connection = (tx: unknown) => tx as mysql.PoolConnection
  const read = async (lock: string, tx?: unknown) => {
    const [rows] = await (tx === undefined ? pool : connection(tx)).query<mysql.RowDataPacket[]>(
      'select value from work_counters where name = ?',
      [lock],
    )
    return Number(rows[0]?.value)
  }
  const write = async (tx: unknown, { lock, token, owner, operation, value }: NewEntry) => {
    await connection(tx).query('update work_counters set value = ? where name = ?', [value, lock])
    await connection(tx).query(
      'insert into work_entries (name, token, owner, operation, value) values (?, ?, ?, ?, ?)',
      [lock, token, owner, operation, value],
    )
  }
  return {
    adapter: fromMysql2(pool) as Adapter<unknown>,
    read,
    async transact(body, readsLatest = false) {
      let tx: mysql.PoolConnection
      try {
        tx = await pool.getConnection()
      } catch (error) {
        return failed(error)
      }
      try {
        if (readsLatest) await tx.query('set transaction isolation level read committed')
        await tx.query('start transaction')
        await body(tx)
      } catch (error) {
        // Also after 1213, which ends the transaction and leaves a connection that commits each statement by itself.
        if (await isBrokenAfter(tx.query('rollback'))) tx.destroy()
        else tx.release()
        return failed(error)
      }
      try {
        await tx.query('commit')
        tx.release()
        return { outcome: 'ok' }
      } catch (error) {
        tx.destroy()
        return unknown(error)
      }
    },
    write,
    async query(tx, text, values) {
      const [rows] = await connection(tx).query<mysql.RowDataPacket[]>(text.replace(/\$\d+/g, '?'), [...values])
      return rows
    },
    async guardedRead(tx, lease) {
      await lease.guard(tx)
      return read(lease.name, tx)
    },
    async guardedWrite(tx, lease, entry) {
      await lease.guard(tx)
      await write(tx, entry)
    },
    async readFlag(lock) {
      const [rows] = await pool.query<mysql.RowDataPacket[]>(
        'select holder, expires_at from work_flags where name = ?',
        [lock],
      )
      return { holder: rows[0]?.holder, expiresAt: Number(rows[0]?.expires_at) }
    },
    async writeFlag(lock, { holder, expiresAt }) {
      await pool.query('update work_flags set holder = ?, expires_at = ? where name = ?', [holder, expiresAt, lock])
    },
    exhaust: (milliseconds) =>
      hold(poolSize, milliseconds, async () => {
        const taken = await pool.getConnection()
        return () => taken.release()
      }),
    dropNotifications: async () => 0,
    close: () => pool.end(),
  }
}

/** An adapter between which and the library notifications can be lost, as they are when a connection breaks unnoticed. */
function forgetful<Tx>(adapter: SqlAdapter<Tx>) {
  let dropping = false
  let dropped = 0
  const dedicate = async () => {
    const connection = await adapter.dedicate!()
    if (connection.onNotification === undefined) return connection
    const onNotification = (listener: (payload: string) => void) =>
      connection.onNotification!((payload) => {
        if (dropping) dropped++
        else listener(payload)
      })
    return { ...connection, onNotification }
  }
  return {
    adapter: { ...adapter, dedicate },
    async dropNotifications(milliseconds: number) {
      const before = dropped
      dropping = true
      await sleep(milliseconds)
      dropping = false
      return dropped - before
    },
  }
}

/** One handle for all callers of the process, as applications have it: they take turns at its transactions. */
async function sqliteWork(path: string): Promise<Work> {
  const { default: Database } = await import('better-sqlite3')
  const database = new Database(path, { timeout: 0 })
  database.pragma('synchronous = normal')
  let lastTurn: Promise<unknown> = Promise.resolve()
  const inTurn = <T>(use: () => Promise<T>): Promise<T> => {
    const turn = lastTurn.then(use)
    lastTurn = turn.catch(() => undefined)
    return turn
  }
  const prepared = new Map<string, Sqlite.Statement>()
  const statement = (text: string) => {
    const found = prepared.get(text) ?? database.prepare(text)
    prepared.set(text, found)
    return found
  }
  const read = async (lock: string) => {
    const text = 'select value from work_counters where name = ?'
    const row = (await whenNotBusy(() => statement(text).get(lock))) as { value: number }
    return row.value
  }
  const write = (_: unknown, { lock, token, owner, operation, value }: NewEntry) => {
    statement('update work_counters set value = ? where name = ?').run(value, lock)
    statement('insert into work_entries (name, token, owner, operation, value) values (?, ?, ?, ?, ?)').run(
      lock,
      token,
      owner,
      operation,
      value,
    )
  }
  return {
    adapter: fromBetterSqlite3(database) as Adapter<unknown>,
    read,
    transact: (body) =>
      inTurn(async () => {
        try {
          await whenNotBusy(() => database.exec('begin immediate'))
        } catch (error) {
          return failed(error)
        }
        try {
          const waiting = body(database)
          // Awaited only if there is something to wait for: without a pause nobody sees the file locked.
          if (waiting !== undefined) await waiting
        } catch (error) {
          database.exec('rollback')
          return failed(error)
        }
        try {
          database.exec('commit')
          return { outcome: 'ok' }
        } catch (error) {
          if (database.inTransaction) database.exec('rollback')
          return unknown(error)
        }
      }),
    write,
    query(_, text, values) {
      const prepared = statement(text.replace(/\$\d+/g, '?'))
      if (prepared.reader) return prepared.all(...values) as WorkRow[]
      prepared.run(...values)
      return []
    },
    async guardedRead(tx, lease) {
      void lease.guard(tx)
      return read(lease.name)
    },
    guardedWrite(tx, lease, entry) {
      void lease.guard(tx)
      write(tx, entry)
    },
    async readFlag(lock) {
      const text = 'select holder, expires_at as expiresAt from work_flags where name = ?'
      return (await whenNotBusy(() => statement(text).get(lock))) as Flag
    },
    writeFlag: (lock, { holder, expiresAt }) =>
      inTurn(() =>
        whenNotBusy(() => {
          statement('update work_flags set holder = ?, expires_at = ? where name = ?').run(holder, expiresAt, lock)
        }),
      ),
    exhaust: (milliseconds) => inTurn(() => sleep(milliseconds)),
    dropNotifications: async () => 0,
    close: async () => void database.close(),
  }
}

/** Waits for the file without blocking the event loop, as busy_timeout would. */
export async function whenNotBusy<T>(run: () => T): Promise<T> {
  const end = performance.now() + STATEMENT_TIMEOUT_MS
  for (;;) {
    try {
      return run()
    } catch (error) {
      const isBusy = (error as { code?: string }).code?.startsWith('SQLITE_BUSY') === true
      if (!isBusy || performance.now() > end) throw error
    }
    await sleep(1 + 4 * Math.random())
  }
}

/** A connection whose rollback fails must not be used again: its transaction may still be open. */
async function isBrokenAfter(rollback: Promise<unknown>): Promise<boolean> {
  return rollback.then(
    () => false,
    () => true,
  )
}

async function hold(times: number, milliseconds: number, take: () => Promise<() => void>): Promise<void> {
  const taken = await Promise.allSettled(Array.from({ length: times }, take))
  await sleep(milliseconds)
  for (const each of taken) if (each.status === 'fulfilled') each.value()
}

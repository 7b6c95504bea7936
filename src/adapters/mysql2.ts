import { LockError } from '../errors.ts'
import {
  type DedicatedConnection,
  Loss,
  type Result,
  type SqlAdapter,
  type Statement,
  transactionLeftOpen,
} from './adapter.ts'
import { DEFAULT_SHAPE, toResult } from './mysql-result.ts'

/** A connection of mysql2/promise on which the caller has begun a transaction. */
export interface Mysql2Transaction {
  query(options: { sql: string; values: unknown[] }): Promise<[unknown, unknown]>
  beginTransaction(): Promise<void>
}

interface Mysql2Connection extends Mysql2Transaction {
  release(): void
  destroy(): void
  readonly threadId: number
  on(event: string, listener: (cause?: unknown) => void): unknown
}

/** A pool of mysql2/promise. */
export interface Mysql2Pool {
  query(options: { sql: string; values: unknown[] }): Promise<[unknown, unknown]>
  getConnection(): Promise<Mysql2Connection>
}

export interface Mysql2Options {
  /**
   * A pool that reaches the server directly, of which `takeover: 'session'` keeps one connection, when `pool` goes through
   * a proxy or has just one connection. Default: `pool`.
   */
  readonly sessions?: Mysql2Pool
}

/** MySQL and MariaDB through `mysql2/promise`. Guards take the connection on which the caller has begun a transaction. */
export function fromMysql2(pool: Mysql2Pool, options: Mysql2Options = {}): SqlAdapter<Mysql2Transaction> {
  if (typeof pool?.getConnection !== 'function' || typeof pool.query !== 'function' || isCallbackPool(pool)) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'fromMysql2 takes a pool of mysql2/promise (of the callback API: pool.promise())',
    )
  }
  return {
    engine: 'mysql',
    query: (statement) => sendAlone(pool, statement),
    async queryIn(tx, statement) {
      if (typeof tx?.query !== 'function' || typeof tx.beginTransaction !== 'function') {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the mysql2 connection on which the transaction was begun, not the pool',
        )
      }
      return send(tx, statement)
    },
    async reserve(use) {
      const connection = await pool.getConnection()
      try {
        const result = await use({ query: (statement) => send(connection, statement) })
        connection.release()
        return result
      } catch (error) {
        connection.destroy()
        throw error
      }
    },
    dedicate: () => dedicate(options.sessions ?? pool),
  }
}

async function send(
  connection: Pick<Mysql2Transaction, 'query'>,
  { text, values, callers }: Statement,
): Promise<Result> {
  return toResult(await connection.query({ sql: text, values: [...values], ...(!callers && DEFAULT_SHAPE) }))
}

/** As `pool.query`, but not in a transaction that somebody has left open on a connection, nor where autocommit is off. */
async function sendAlone(pool: Mysql2Pool, statement: Statement): Promise<Result> {
  const connection = await pool.getConnection()
  let good = true
  try {
    const result = await send(connection, statement)
    if (result.inTransaction !== true) return result
    good = false
    await send(connection, { text: 'rollback', values: [] })
    throw transactionLeftOpen()
  } finally {
    if (good) connection.release()
    else connection.destroy()
  }
}

async function dedicate(pool: Mysql2Pool): Promise<DedicatedConnection> {
  if (connectionLimit(pool) === 1) {
    throw new LockError(
      'UNSUPPORTED',
      "takeover: 'session' keeps a connection, and this pool has just one: enlarge it, or give fromMysql2 another pool as its sessions option",
    )
  }
  const connection = await pool.getConnection()
  const loss = new Loss()
  connection.on('error', loss.lose)
  ;(connection as unknown as { connection?: { stream?: { unref?(): void } } }).connection?.stream?.unref?.()
  connection.on('end', () => loss.lose(new Error('the connection has ended')))
  return {
    backendId: connection.threadId,
    query: (statement) => send(connection, statement),
    onLost: loss.onLost,
    async close() {
      loss.expect()
      // Not back into the pool: it would take the session lock along.
      connection.destroy()
    },
  }
}

function isCallbackPool(pool: unknown): boolean {
  return typeof (pool as { promise?: unknown }).promise === 'function'
}

function connectionLimit(pool: unknown): number | undefined {
  return (pool as { pool?: { config?: { connectionLimit?: number } } }).pool?.config?.connectionLimit
}

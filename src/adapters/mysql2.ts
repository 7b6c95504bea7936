import { LockError } from '../base/errors.ts'
import { asAdapter, type Result, type SqlAdapter, type Statement, transactionLeftOpen } from './adapter.ts'
import { dedicateMysql2, type Mysql2Queries, send } from './mysql2-connection.ts'

/** A connection of mysql2/promise on which the caller has begun a transaction. */
export interface Mysql2Transaction extends Mysql2Queries {
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
   * A pool that reaches the server directly, for the connection of rowlock's own, when `pool` goes through a proxy. Default:
   * `pool`.
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
  return asAdapter({
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
    dedicate: () => dedicateMysql2(options.sessions ?? pool),
  })
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

function isCallbackPool(pool: unknown): boolean {
  return typeof (pool as { promise?: unknown }).promise === 'function'
}

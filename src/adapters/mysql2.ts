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
    dedicate: () => dedicateMysql2(options.sessions ?? pool),
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

/** A connection of the callback API, beside a pool. */
export interface RawMysql2Connection {
  readonly threadId: number
  readonly stream?: { unref?(): void }
  promise(): Pick<Mysql2Transaction, 'query'>
  on(event: string, listener: (cause?: unknown) => void): unknown
  destroy(): void
}

/** A connection beside the pool, made with the pool's own settings, so that a pool of one is not used up by it. */
export async function dedicateMysql2(pool: object): Promise<DedicatedConnection> {
  // Of the promise API, or the callback API itself.
  const callbackPool = (pool as { pool?: object }).pool ?? pool
  const { config, _createConnectionConfig, listeners } = callbackPool as {
    config?: { connectionConfig?: object }
    _createConnectionConfig?(): object
    listeners?(event: string): ((connection: unknown) => void)[]
  }
  const settings = _createConnectionConfig?.call(callbackPool) ?? config?.connectionConfig
  if (settings === undefined) {
    throw new LockError('UNSUPPORTED', 'a connection beside the pool needs a pool of mysql2 whose settings can be read')
  }
  const { default: mysql2 } = (await import('mysql2')) as unknown as {
    default: { Connection: new (options: { config: object }) => RawMysql2Connection & Connectable }
  }
  const connection = new mysql2.Connection({ config: settings })
  const dedicated = await connectedMysql2(
    connection,
    () =>
      new Promise((resolve, reject) => {
        connection.connect((error) => (error ? reject(error) : resolve()))
      }),
  )
  // What the application does with each new connection of its pool.
  for (const listener of listeners?.call(callbackPool, 'connection') ?? []) listener.call(callbackPool, connection)
  return dedicated
}

interface Connectable {
  connect(done: (error: unknown) => void): void
}

/** A connection of mysql2's that is rowlock's own, connected by `connect`. */
export async function connectedMysql2(
  connection: RawMysql2Connection,
  connect?: () => Promise<void>,
): Promise<DedicatedConnection> {
  const loss = new Loss()
  connection.on('error', loss.lose)
  connection.on('end', () => loss.lose(new Error('the connection has ended')))
  await connect?.()
  connection.stream?.unref?.()
  const promised = connection.promise()
  return {
    backendId: connection.threadId,
    query: (statement) => send(promised, statement),
    onLost: loss.onLost,
    async close() {
      loss.expect()
      connection.destroy()
    },
  }
}

function isCallbackPool(pool: unknown): boolean {
  return typeof (pool as { promise?: unknown }).promise === 'function'
}

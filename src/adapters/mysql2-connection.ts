import { LockError } from '../base/errors.ts'
import { type DedicatedConnection, Loss, type Result, type Statement } from './adapter.ts'
import { DEFAULT_SHAPE, toResult } from './mysql-result.ts'

export interface Mysql2Queries {
  query(options: { sql: string; values: unknown[] }): Promise<[unknown, unknown]>
}

export async function send(connection: Mysql2Queries, { text, values, callers }: Statement): Promise<Result> {
  return toResult(await connection.query({ sql: text, values: [...values], ...(!callers && DEFAULT_SHAPE) }))
}

/** A connection of the callback API, beside a pool. */
export interface RawMysql2Connection {
  readonly threadId: number
  readonly stream?: { unref?(): void }
  promise(): Mysql2Queries
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

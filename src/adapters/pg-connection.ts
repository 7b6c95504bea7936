import { LockError } from '../base/errors.ts'
import { type DedicatedConnection, Loss, type Result, type Statement } from './adapter.ts'

interface PgQuery {
  readonly text: string
  readonly values: unknown[]
  readonly name?: string
  readonly types?: { getTypeParser(): (value: string) => unknown }
}

/** A pg.PoolClient or pg.Client on which the caller has said BEGIN. */
export interface PgTransaction {
  query(query: PgQuery): Promise<{ rows: Record<string, unknown>[] }>
  /** What the server said last: idle, in a transaction, or in a failed one. Since pg 8.21. */
  getTransactionStatus?(): 'I' | 'T' | 'E' | null
}

export interface PgClient extends PgTransaction {
  connect(): Promise<unknown>
  end(): Promise<void>
  unref?(): void
  on(event: string, listener: (argument?: unknown) => void): unknown
}

/** Values as the server sends them, whatever parsers the pool, or all of pg, has been given. */
const TEXT = { getTypeParser: () => (value: string) => value }

export async function send(
  client: PgTransaction,
  { text, values, callers }: Statement,
  name?: string,
): Promise<Result> {
  // A client that was told to receive values in binary has parsers for those.
  const { binary, options } = client as { readonly binary?: unknown; readonly options?: { readonly binary?: unknown } }
  const isBinary = (binary ?? options?.binary) === true
  const { rows } = await client.query({
    text,
    values: [...values],
    ...(name !== undefined && { name }),
    ...(!callers && !isBinary && { types: TEXT }),
  })
  return { rows }
}

/** A connection beside the pool, made with the pool's own settings, so that a pool of one is not used up by it. */
export async function dedicatePg(pool: object): Promise<DedicatedConnection> {
  const { Client, options } = pool as { Client?: new (options: unknown) => PgClient; options?: unknown }
  if (Client === undefined)
    throw new LockError('UNSUPPORTED', 'a connection beside the pool needs a pg.Pool that knows its Client class')
  const client = new Client(options)
  // What the application does with each new connection of its pool: a schema, a role, settings.
  const { listeners } = pool as { listeners?(event: string): ((client: PgClient) => void)[] }
  const onConnect = listeners?.call(pool, 'connect') ?? []
  return connectedPg(client, async () => {
    await client.connect()
    for (const listener of onConnect) listener.call(pool, client)
  })
}

/** A client of pg's that is rowlock's own, connected by `connect`. */
export async function connectedPg(client: PgClient, connect?: () => Promise<void>): Promise<DedicatedConnection> {
  const loss = new Loss()
  client.on('error', loss.lose)
  client.on('end', () => loss.lose(new Error('the connection has ended')))
  await connect?.()
  client.unref?.()
  // pg keeps the id from the server's BackendKeyData, a pooler invents one.
  const backendId = (client as { processID?: number | null }).processID ?? undefined
  const { rows } = await send(client, { text: 'select pg_backend_pid() as backend', values: [] })
  const isDirect = Number(rows[0]?.backend) === backendId
  // One after the other, as pg would send them itself; but it warns of those that it has to keep waiting.
  let last: Promise<unknown> = Promise.resolve()
  return {
    backendId,
    query(statement) {
      const answer = last.then(() => send(client, statement, isDirect ? statement.name : undefined))
      last = answer.catch(() => undefined)
      return answer
    },
    onNotification(listener) {
      client.on('notification', (message) => listener((message as { payload?: string }).payload ?? ''))
    },
    onLost: loss.onLost,
    async close() {
      loss.expect()
      await client.end()
    },
  }
}

import { LockError } from '../base/errors.ts'
import {
  asAdapter,
  connectionIn,
  type DedicatedConnection,
  noOwnConnection,
  type Result,
  type SessionOptions,
  type SqlAdapter,
  type Statement,
} from './adapter.ts'
import { type PostgresJsOptions, type RowReader, rowReader } from './postgres-js-rows.ts'
import { assertTransactionOpen } from './postgres-transaction.ts'

interface Sql {
  unsafe(query: string, parameters?: unknown[], options?: { prepare?: boolean }): PromiseLike<readonly object[]>
}

/** A TransactionSql of postgres.js, as `sql.begin` passes it to its callback. */
export interface PostgresJsTransaction extends Sql {
  savepoint<T>(use: (tx: PostgresJsTransaction) => Promise<T>): Promise<unknown>
}

/** What `postgres()` answers. */
export interface PostgresJs extends Sql {
  begin<T>(use: (tx: PostgresJsTransaction) => Promise<T>): Promise<unknown>
  listen(channel: string, listener: (payload: string) => void): Promise<{ unlisten(): Promise<void> }>
  readonly options: PostgresJsOptions
}

/** PostgreSQL through `postgres` (postgres.js). Guards take what `sql.begin` gives to its callback, while that runs. */
export function fromPostgresJs(sql: PostgresJs, options: SessionOptions = {}): SqlAdapter<PostgresJsTransaction> {
  if (typeof sql?.unsafe !== 'function' || typeof sql.begin !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPostgresJs takes what postgres() answers')
  }
  const read = rowReader(sql)
  const send = (target: Sql, statement: Statement) => run(target, read, statement)
  const dedicate = options.sessions?.dedicate
  return asAdapter({
    engine: 'postgres',
    query: (statement) => send(sql, statement),
    async queryIn(tx, statement) {
      if (typeof tx?.unsafe !== 'function' || typeof tx.savepoint !== 'function') {
        throw new LockError('INVALID_ARGUMENT', 'pass the sql that sql.begin gave to your callback, not the outer one')
      }
      await assertTransactionOpen((check) => send(tx, check), transactionEnded)
      return send(tx, statement)
    },
    reserve: async <T>(use: (connection: ReturnType<typeof connectionIn>) => Promise<T>) =>
      (await sql.begin((tx) => use(connectionIn((statement) => send(tx, statement))))) as T,
    async listen(channel, listener) {
      const { unlisten } = await sql.listen(channel, listener)
      return unlisten
    },
    ...(dedicate ? { dedicate } : { borrow: async () => besidePostgresJs(sql, send) }),
  })
}

/**
 * The connection that postgres.js keeps beside its pool to listen on, with the settings of the pool. It is made anew whenever it
 * is lost, without telling.
 */
async function besidePostgresJs(
  sql: Pick<PostgresJs, 'listen'>,
  send: (target: Sql, statement: Statement) => Promise<Result>,
): Promise<DedicatedConnection> {
  const listening = () => (sql.listen as { sql?: Sql }).sql
  if (listening() === undefined) await sql.listen('rowlock', () => undefined)
  if (listening() === undefined) throw noOwnConnection('postgres.js')
  return {
    backendId: undefined,
    query: (statement) => send(listening()!, statement),
    onLost: () => undefined,
    // It is postgres.js's, which ends it with the pool.
    close: async () => undefined,
  }
}

function transactionEnded(cause: unknown): never {
  throw new LockError('INVALID_ARGUMENT', 'this transaction of postgres.js has ended already', { cause })
}

/** Named statements save a round trip; `postgres({ prepare: false })`, for poolers, has the last word. */
async function run(sql: Sql, read: RowReader, { text, values, name, callers }: Statement): Promise<Result> {
  const prepare = values.length > 0 && (!callers || name !== undefined)
  const rows = await sql.unsafe(text, [...values], { prepare })
  return { rows: callers ? (rows as Result['rows']) : read(rows) }
}

import { LockError } from '../errors.ts'
import { connectionIn, type Result, type SessionOptions, type SqlAdapter, type Statement } from './adapter.ts'

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
  readonly options: { readonly transform?: { readonly column?: { readonly from?: unknown } } }
}

/**
 * PostgreSQL through `postgres` (postgres.js). Guards take what `sql.begin` gives to its callback, while that runs: later,
 * postgres.js still runs statements on the connection of the transaction, and nobody can tell.
 */
export function fromPostgresJs(sql: PostgresJs, options: SessionOptions = {}): SqlAdapter<PostgresJsTransaction> {
  if (typeof sql?.unsafe !== 'function' || typeof sql.begin !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPostgresJs takes what postgres() answers')
  }
  const rename = sql.options?.transform?.column?.from
  if (typeof rename === 'function' && rename('token') !== 'token') {
    throw new LockError(
      'INVALID_ARGUMENT',
      'fromPostgresJs needs an instance that does not rename columns such as token',
    )
  }
  const dedicate = options.sessions?.dedicate
  return {
    engine: 'postgres',
    query: (statement) => send(sql, statement),
    async queryIn(tx, statement) {
      if (typeof tx?.unsafe !== 'function' || typeof tx.savepoint !== 'function') {
        throw new LockError('INVALID_ARGUMENT', 'pass the sql that sql.begin gave to your callback, not the outer one')
      }
      return send(tx, statement)
    },
    reserve: async <T>(use: (connection: ReturnType<typeof connectionIn>) => Promise<T>) =>
      (await sql.begin((tx) => use(connectionIn((statement) => send(tx, statement))))) as T,
    async listen(channel, listener) {
      const { unlisten } = await sql.listen(channel, listener)
      return unlisten
    },
    ...(dedicate && { dedicate }),
  }
}

/** Named statements save a round trip; `postgres({ prepare: false })`, for poolers, has the last word. */
async function send(sql: Sql, { text, values }: Statement): Promise<Result> {
  const rows = await sql.unsafe(text, [...values], { prepare: values.length > 0 })
  return { rows: rows as readonly Record<string, unknown>[] }
}

import { LockError } from '../base/errors.ts'
import { asAdapter, connectionIn, type Result, type SqlAdapter, type Statement } from './adapter.ts'

interface PgliteOptions {
  readonly rowMode?: 'object'
  readonly parsers?: Record<number, (value: string) => unknown>
}

/** A transaction of PGlite, as `pglite.transaction` passes it to its callback. */
export interface PgliteTransaction {
  query(query: string, values?: unknown[], options?: PgliteOptions): Promise<{ rows: unknown[] }>
  rollback(): Promise<void>
  readonly closed: boolean
}

/** A PGlite. */
export interface Pglite {
  query(query: string, values?: unknown[], options?: PgliteOptions): Promise<{ rows: unknown[] }>
  runExclusive<T>(use: () => Promise<T>): Promise<T>
  transaction<T>(use: (tx: PgliteTransaction) => Promise<T>): Promise<T>
  listen(channel: string, callback: (payload: string) => void): Promise<() => Promise<void>>
}

/** PostgreSQL's numbers for bool, int4, text and float8, which PGlite may have been given parsers of its own for. */
const PARSED = [16, 23, 25, 701]
const TEXT: PgliteOptions = { parsers: Object.fromEntries(PARSED.map((type) => [type, (value: string) => value])) }

async function send(pglite: Pick<PgliteTransaction, 'query'>, { text, values, callers }: Statement): Promise<Result> {
  const { rows } = await pglite.query(text, [...values], callers ? {} : TEXT)
  return { rows: rows as Result['rows'] }
}

/**
 * PostgreSQL within this process, through PGlite. Guards take its transactions. It has one session: a lock awaited inside
 * its own transaction would wait for itself, and ends in a DATABASE error after `statementTimeout`.
 */
export function fromPglite(pglite: Pglite): SqlAdapter<PgliteTransaction> {
  if (typeof pglite?.query !== 'function' || typeof pglite.runExclusive !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPglite takes a PGlite')
  }
  return asAdapter({
    engine: 'postgres',
    single: true,
    query: (statement) => send(pglite, statement),
    async queryIn(tx, statement) {
      if (typeof tx?.rollback !== 'function') {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the transaction that PGlite gave to your callback, not the PGlite',
        )
      }
      if (tx.closed) throw new LockError('INVALID_ARGUMENT', 'this transaction of PGlite has ended already')
      return send(tx, statement)
    },
    async listen(channel, listener) {
      const unlisten = await pglite.listen(`"${channel}"`, listener)
      return () => unlisten()
    },
    // One session serves all: what is between begin and commit must be a transaction of PGlite's own.
    reserve: (use) => pglite.transaction((tx) => use(connectionIn((statement) => send(tx, statement)))),
  })
}

import { LockError } from '../errors.ts'
import { connectionIn, type SqlAdapter } from './adapter.ts'

/** A transaction of PGlite, as `pglite.transaction` passes it to its callback. */
export interface PgliteTransaction {
  query(query: string, values?: unknown[]): Promise<{ rows: unknown[] }>
  rollback(): Promise<void>
}

/** A PGlite. */
export interface Pglite {
  query(query: string, values?: unknown[]): Promise<{ rows: unknown[] }>
  runExclusive<T>(use: () => Promise<T>): Promise<T>
  transaction<T>(use: (tx: PgliteTransaction) => Promise<T>): Promise<T>
  listen(channel: string, callback: (payload: string) => void): Promise<() => Promise<void>>
}

type Rows = { rows: Record<string, unknown>[] }

/**
 * PostgreSQL within this process, through PGlite. Guards take its transactions. It has one session: a lock awaited inside
 * its own transaction would wait for itself, and ends in a DATABASE error after `statementTimeout`.
 */
export function fromPglite(pglite: Pglite): SqlAdapter<PgliteTransaction> {
  if (typeof pglite?.query !== 'function' || typeof pglite.runExclusive !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPglite takes a PGlite')
  }
  return {
    engine: 'postgres',
    single: true,
    query: ({ text, values }) => pglite.query(text, [...values]) as Promise<Rows>,
    queryIn(tx, { text, values }) {
      if (typeof tx?.rollback !== 'function') {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the transaction that PGlite gave to your callback, not the PGlite',
        )
      }
      return tx.query(text, [...values]) as Promise<Rows>
    },
    async listen(channel, listener) {
      const unlisten = await pglite.listen(`"${channel}"`, listener)
      return () => unlisten()
    },
    // One session serves all: what is between begin and commit must be a transaction of PGlite's own.
    reserve: (use) =>
      pglite.transaction((tx) => use(connectionIn(({ text, values }) => tx.query(text, [...values]) as Promise<Rows>))),
  }
}

import { LockError } from '../base/errors.ts'
import { asAdapter, type Result, type SqlAdapter, type Statement, transactionLeftOpen } from './adapter.ts'
import { dedicatePg, type PgTransaction, send } from './pg-connection.ts'
import { assertTransactionOpen } from './postgres-transaction.ts'

export type { PgTransaction } from './pg-connection.ts'

interface PgPoolClient extends PgTransaction {
  release(destroy?: boolean): void
  on(event: 'error', listener: (cause: unknown) => void): unknown
  off(event: 'error', listener: (cause: unknown) => void): unknown
}

/** A pg.Pool. */
export interface PgPool extends PgTransaction {
  connect(): Promise<PgPoolClient>
}

export interface PgOptions {
  /**
   * A pool that reaches the server directly, for the connection of rowlock's own, when `pool` goes through a pooler. Default:
   * `pool`.
   */
  readonly sessions?: PgPool
}

/**
 * Prepared statements save the planner's time, half of an acquire. A pooler that shares sessions does not know them, nor does
 * a session after DISCARD ALL: the server says so before it executes anything, and from then on they are sent unprepared. In a
 * caller's transaction, which that error aborts, they are prepared only on connections that are known to be direct.
 */
const STATEMENT_LOST = ['26000', '42P05']

function isStatementLost(error: unknown): boolean {
  return STATEMENT_LOST.includes((error as { code?: string } | null)?.code ?? '')
}

/** PostgreSQL through `pg`. Guards take the client on which the caller has begun a transaction. */
export function fromPg(pool: PgPool, options: PgOptions = {}): SqlAdapter<PgTransaction> {
  if (typeof pool?.connect !== 'function' || typeof pool.query !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPg takes a pg.Pool')
  }
  // A pg.Client looks much like a pool, but what rowlock ran on it would be part of the caller's transactions.
  if ('escapeIdentifier' in pool) throw new LockError('INVALID_ARGUMENT', 'fromPg takes a pg.Pool, not a client')
  let prepare = true
  const direct = new WeakMap<PgTransaction, boolean>()
  return asAdapter({
    engine: 'postgres',
    async query(statement) {
      if (!prepare || statement.name === undefined) return sendAlone(pool, withoutName(statement))
      try {
        return await sendAlone(pool, statement)
      } catch (error) {
        if (!isStatementLost(error)) throw error
        prepare = false
        return sendAlone(pool, withoutName(statement))
      }
    },
    async queryIn(tx, statement) {
      if (typeof tx?.query !== 'function' || (tx as unknown) === pool) {
        throw new LockError('INVALID_ARGUMENT', 'pass the pg client on which the transaction was begun, not the pool')
      }
      await assertInTransaction(tx)
      if (!prepare || statement.name === undefined || !(await isDirect(tx, direct))) return send(tx, statement)
      try {
        return await send(tx, statement, statement.name)
      } catch (cause) {
        if (!isStatementLost(cause)) throw cause
        prepare = false
        const message =
          'this session has forgotten its prepared statements (DISCARD ALL, DEALLOCATE, or a pooler), which ended the transaction: roll back, and retry all of it. From now on nothing is prepared'
        throw new LockError('TRANSACTION_ABORTED', message, { cause })
      }
    },
    reserve: (use) => reserved(pool, (client) => use({ query: (statement) => send(client, statement) })),
    dedicate: () => dedicatePg(options.sessions ?? pool),
  })
}

function withoutName({ text, values }: Statement): Statement {
  return { text, values }
}

/** A client of the pool's, which is closed if `use` fails. */
async function reserved<T>(pool: PgPool, use: (client: PgPoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  // Without a listener it would end the process. The query that is under way rejects with it.
  const onError = () => undefined
  client.on('error', onError)
  let broken = true
  try {
    const result = await use(client)
    broken = false
    return result
  } finally {
    client.off('error', onError)
    client.release(broken)
  }
}

/** As `pool.query`, but not in a transaction that somebody has left open on a connection. Before 8.21, pg does not tell. */
function sendAlone(pool: PgPool, statement: Statement): Promise<Result> {
  return reserved(pool, async (client) => {
    const result = await send(client, statement, statement.name)
    if ((client.getTransactionStatus?.() ?? 'I') === 'I') return result
    await client.query({ text: 'rollback', values: [] })
    throw transactionLeftOpen()
  })
}

/**
 * Asked once for each connection that answers: one in a failed transaction does not. pg keeps the process id from the server's
 * BackendKeyData; a pooler invents one.
 */
async function isDirect(tx: PgTransaction, known: WeakMap<PgTransaction, boolean>): Promise<boolean> {
  let direct = known.get(tx)
  if (direct === undefined) {
    const { processID } = tx as { processID?: number | null }
    const { rows } = await send(tx, { text: 'select pg_backend_pid() as backend', values: [] })
    direct = Number(rows[0]?.backend) === processID
    known.set(tx, direct)
  }
  return direct
}

async function assertInTransaction(tx: PgTransaction): Promise<void> {
  const refuse = (cause?: unknown) => {
    throw new LockError(
      'INVALID_ARGUMENT',
      'no transaction is open on this pg client, so nothing would be protected: await BEGIN on it first',
      { cause },
    )
  }
  if (tx.getTransactionStatus !== undefined) {
    if (tx.getTransactionStatus() === 'I') refuse()
    return
  }
  // Before 8.21, pg does not tell, but the server does.
  await assertTransactionOpen((statement) => send(tx, statement), refuse)
}

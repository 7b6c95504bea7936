import { LockError } from '../base/errors.ts'
import {
  asAdapter,
  type Connection,
  connectionIn,
  type Result,
  type SessionOptions,
  type SqlAdapter,
  type SqlEngine,
  type Statement,
} from './adapter.ts'
import { answersRows } from './mysql-result.ts'

/** The client of an interactive transaction of Prisma. */
export interface PrismaTransaction {
  $queryRawUnsafe<T = unknown>(text: string, ...values: unknown[]): Promise<T>
  $executeRawUnsafe(text: string, ...values: unknown[]): Promise<number>
  /** Which sets it apart from a client. */
  readonly $connect?: never
}

/** A PrismaClient of Prisma 7 with a driver adapter for PostgreSQL, MySQL, MariaDB or SQLite. */
export interface PrismaClient extends Omit<PrismaTransaction, '$connect'> {
  $connect(): Promise<void>
  $transaction<T>(
    use: (tx: PrismaTransaction) => Promise<T>,
    options?: { readonly maxWait?: number; readonly timeout?: number },
  ): Promise<T>
}

export interface PrismaOptions extends SessionOptions {
  /** Needed only if it cannot be read off the client's driver adapter. */
  readonly engine?: SqlEngine
}

/** Milliseconds, for transactions of rowlock's own. Those have limits already; Prisma's would end a migration. */
const PATIENCE = { maxWait: 10_000, timeout: 120_000 }

/**
 * PostgreSQL, MySQL, MariaDB or SQLite through Prisma 7. Guards take the client of an interactive transaction. On SQLite,
 * give the driver adapter a `timeout` of a few milliseconds: rowlock waits for the file itself, the driver would block the
 * event loop for seconds.
 */
export function fromPrisma(given: PrismaClient, options: PrismaOptions = {}): SqlAdapter<PrismaTransaction> {
  if (typeof given?.$transaction !== 'function' || typeof given.$connect !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPrisma takes a PrismaClient that is not a transaction')
  }
  const client = primaryOf(given)
  const engine = options.engine ?? engineOf(given)
  const dedicate = options.sessions?.dedicate
  const transaction = <T>(use: (tx: PrismaTransaction) => Promise<T>) =>
    explained(engine, client.$transaction(use, PATIENCE))
  return asAdapter({
    engine,
    // Its driver adapter has one connection.
    single: engine === 'sqlite',
    transactionOf: (tx) => tx,
    tellsNoInsertId: true,
    async query(statement) {
      if (engine === 'sqlite') return onItsOwn(transaction, statement)
      if (setsInsertId(statement)) return transaction((tx) => withInsertId(tx, statement))
      return send(engine, client, statement)
    },
    async queryIn(tx, statement) {
      if (typeof tx?.$queryRawUnsafe !== 'function' || tx.$connect !== undefined) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the client that Prisma gave to the callback of $transaction, not the PrismaClient',
        )
      }
      return whileOpen(send(engine, tx, statement))
    },
    reserve: <T>(use: (connection: Connection) => Promise<T>) =>
      transaction((tx) => use(connectionIn((statement) => send(engine, tx, statement)))),
    ...(dedicate && { dedicate }),
  })
}

/**
 * Outside of a transaction, the driver adapter for SQLite would run it in whatever transaction is open on its connection.
 * What the application runs meanwhile gets into ours in the same way, so a failure must not roll it back.
 */
async function onItsOwn(
  transaction: <T>(use: (tx: PrismaTransaction) => Promise<T>) => Promise<T>,
  statement: Statement,
): Promise<Result> {
  const outcome = await transaction(async (tx) => {
    try {
      return { result: await send('sqlite', tx, statement) }
    } catch (error) {
      return { error }
    }
  })
  if ('error' in outcome) throw outcome.error
  return outcome.result
}

/** Of a client that reads from replicas, by the extension for that: the one it writes with. */
function primaryOf(client: PrismaClient): PrismaClient {
  const { $primary } = client as { $primary?: unknown }
  return typeof $primary === 'function' ? ($primary.call(client) as PrismaClient) : client
}

/** MySQL and MariaDB: Prisma tells how many rows a statement reached, and nothing else. */
function setsInsertId({ text }: Statement): boolean {
  return text.includes('last_insert_id(')
}

async function withInsertId(tx: PrismaTransaction, statement: Statement): Promise<Result> {
  await send('mysql', tx, { text: 'select last_insert_id(0)', values: [] })
  const { affectedRows } = await send('mysql', tx, statement)
  const { rows } = await send('mysql', tx, { text: 'select last_insert_id() as id', values: [] })
  return { rows: [], affectedRows, insertId: BigInt.asIntN(64, BigInt(rows[0]?.id as bigint)) }
}

async function send(
  engine: SqlEngine,
  client: Omit<PrismaTransaction, '$connect'>,
  { text, values }: Statement,
): Promise<Result> {
  // What returns no rows on MySQL returns a count, which only $executeRaw passes on.
  if (engine === 'mysql' && !answersRows(text)) {
    return { rows: [], affectedRows: await explained(engine, client.$executeRawUnsafe(text, ...values)) }
  }
  const rows = await explained(engine, client.$queryRawUnsafe<Record<string, unknown>[]>(text, ...values))
  return { rows: engine === 'mysql' ? rows.map(withBuffers) : rows }
}

function withBuffers(row: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(row).map(([key, value]) => [key, value instanceof Uint8Array ? Buffer.from(value) : value]),
  )
}

interface PrismaError {
  readonly code?: unknown
  readonly meta?: {
    /** Of a transaction that outlived its timeout. */
    readonly timeout?: unknown
    readonly driverAdapterError?: {
      readonly cause?: { readonly originalCode?: string; readonly originalMessage?: string }
    }
  }
}

/** "Transaction API error": it could not be started, or it is over. */
const NO_TRANSACTION = 'P2028'

/** Rejects with the driver's code and message where Prisma passes them on, and else with an error that has no code. */
async function explained<T>(engine: SqlEngine, answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    const { code, meta } = (error ?? {}) as PrismaError
    if (typeof code !== 'string' || !/^P\d{4}$/.test(code)) throw error
    const { originalCode, originalMessage } = meta?.driverAdapterError?.cause ?? {}
    const original = new Error(originalMessage ?? (error as Error).message, { cause: error })
    if (originalCode === undefined) throw original
    throw Object.assign(original, engine === 'mysql' ? { errno: Number(originalCode) } : { code: originalCode })
  }
}

/** In a transaction of the caller's. */
async function whileOpen<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    const cause = (error as { cause?: PrismaError }).cause
    if (cause?.code !== NO_TRANSACTION) throw error
    if (cause.meta?.timeout !== undefined) {
      const message = `retry all of it, with a longer timeout: ${(error as Error).message}`
      throw new LockError('TRANSACTION_ABORTED', message, { cause })
    }
    throw new LockError('INVALID_ARGUMENT', 'this transaction of Prisma has ended already', { cause })
  }
}

function engineOf(client: object): SqlEngine {
  const { _activeProvider: provider } = client as { _activeProvider?: unknown }
  if (provider === 'postgresql' || provider === 'postgres') return 'postgres'
  if (provider === 'mysql' || provider === 'sqlite') return provider
  throw new LockError(
    'INVALID_ARGUMENT',
    `unknown Prisma provider (${String(provider)}): say fromPrisma(client, { engine: 'postgres' | 'mysql' | 'sqlite' })`,
  )
}

import { LockError } from '../errors.ts'
import { otherShape, toBoolean, toNumber } from '../store/shape.ts'
import { connectionIn, type Result, type SessionOptions, type SqlAdapter, type Statement } from './adapter.ts'
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

/** What of its settings changes rows on their way here. */
interface PostgresJsOptions {
  readonly transform?: {
    readonly column?: { readonly from?: unknown; readonly to?: unknown }
    readonly value?: { readonly from?: unknown }
    readonly row?: { readonly from?: unknown }
  }
  readonly parsers?: Readonly<Record<number, unknown>>
}

type Rows = readonly object[]

/** Turns rows back into what the server sent. */
export type RowReader = (rows: Rows) => Result['rows']

/** PostgreSQL through `postgres` (postgres.js). Guards take what `sql.begin` gives to its callback, while that runs. */
export function fromPostgresJs(sql: PostgresJs, options: SessionOptions = {}): SqlAdapter<PostgresJsTransaction> {
  if (typeof sql?.unsafe !== 'function' || typeof sql.begin !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromPostgresJs takes what postgres() answers')
  }
  const read = rowReader(sql)
  const send = (target: Sql, statement: Statement) => run(target, read, statement)
  const dedicate = options.sessions?.dedicate
  return {
    engine: 'postgres',
    query: (statement) => send(sql, statement),
    async queryIn(tx, statement) {
      if (typeof tx?.unsafe !== 'function' || typeof tx.savepoint !== 'function') {
        throw new LockError('INVALID_ARGUMENT', 'pass the sql that sql.begin gave to your callback, not the outer one')
      }
      await assertTransactionOpen((check) => send(tx, check), transactionEnded)
      return send(tx, statement)
    },
    async undoneIn(tx, use) {
      const undo = new Error('undo')
      const attempt = tx.savepoint(async (savepoint) => {
        await use({ query: (statement) => send(savepoint, statement) })
        throw undo
      })
      await attempt.catch((error: unknown) => {
        if (error !== undo) throw error
      })
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

export function transactionEnded(cause: unknown): never {
  throw new LockError('INVALID_ARGUMENT', 'this transaction of postgres.js has ended already', { cause })
}

/** Named statements save a round trip; `postgres({ prepare: false })`, for poolers, has the last word. */
async function run(sql: Sql, read: RowReader, { text, values, name, callers }: Statement): Promise<Result> {
  const prepare = values.length > 0 && (!callers || name !== undefined)
  const rows = await sql.unsafe(text, [...values], { prepare })
  return { rows: callers ? (rows as Result['rows']) : read(rows) }
}

/** What the types of PostgreSQL that are read here look like when they come: bool, int4, float8, text. */
const SAMPLES = [
  { type: 16, text: 't', value: true, read: toBoolean },
  { type: 16, text: 'f', value: false, read: toBoolean },
  { type: 23, text: '7', value: 7, read: toNumber },
  { type: 701, text: '0.5', value: 0.5, read: toNumber },
  { type: 25, text: '7', value: '7', read: (value: unknown) => value },
  { type: 25, text: '', value: '', read: (value: unknown) => value },
] as const
const COLUMNS = ['i', 'token', 'by_session', 'default_transaction_read_only']

/**
 * postgres.js takes no settings with a statement that would spare it the instance's. What renames columns is asked for the way
 * back, and transforms and parsers are tried out: those that spoil what is read here are refused.
 */
export function rowReader({ options }: { readonly options?: PostgresJsOptions }): RowReader {
  const { column, value, row } = options?.transform ?? {}
  const rename = asFunction(column?.from)
  const restore = asFunction(column?.to)
  const transformed = asFunction(value?.from)
  const shaped = asFunction(row?.from)
  for (const sample of SAMPLES) {
    const parse = asFunction(options?.parsers?.[sample.type])
    const parsed = parse(sample.text)
    const given = transformed(parsed, { type: sample.type, name: 'token' })
    if (sample.read(given) !== sample.value) throw otherShape(JSON.stringify(sample.value), given)
  }
  const before = Object.fromEntries(COLUMNS.map((name) => [rename(name), '7']))
  const after = shaped({ ...before }) as Record<string, unknown>
  const names = Object.keys(after ?? {}).map((name) => restore(name))
  if (COLUMNS.some((name) => !names.includes(name)) || Object.values(after).some((each) => each !== '7')) {
    throw otherShape(`a row with the columns ${COLUMNS.join(', ')}`, after)
  }
  if (COLUMNS.every((name) => rename(name) === name)) return (rows) => rows as Result['rows']
  return (rows) =>
    rows.map((each) => Object.fromEntries(Object.entries(each).map(([name, value]) => [String(restore(name)), value])))
}

type Transform = (value: unknown, column?: { readonly type: number; readonly name: string }) => unknown

/** The identity if there is none. */
function asFunction(transform: unknown): Transform {
  return typeof transform === 'function' ? (transform as Transform) : (value) => value
}

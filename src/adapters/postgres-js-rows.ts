import { LockError } from '../base/errors.ts'
import type { Result } from './adapter.ts'
import { otherShape, toBoolean, toNumber } from './shape.ts'

/** What of its settings changes rows on their way here. */
export interface PostgresJsOptions {
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
  try {
    return triedReader(options)
  } catch (cause) {
    if (cause instanceof LockError) throw cause
    throw new LockError('UNSUPPORTED', `a transform or a parser of this postgres.js fails: ${cause}`, { cause })
  }
}

function triedReader(options: PostgresJsOptions | undefined): RowReader {
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

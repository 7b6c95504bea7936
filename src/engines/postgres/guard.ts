import { sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { toBoolean } from '../../adapters/shape.ts'
import { LockError, LockLostError } from '../../base/errors.ts'
import {
  type CallerQuery,
  type GuardResult,
  type Hold,
  isShared,
  type SharedHold,
  type Store,
} from '../../protocol/store.ts'
import { ofEachKind } from '../kinds.ts'
import { statement, statementName } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { explain, sqlState } from './errors.ts'
import { type Fragments, type HoldArrays, holds, type SharedArrays, shared, sharedHolds } from './fragments.ts'
import { areShared, arraysOf, inOrder, type Row, sharedArraysOf } from './rows.ts'

export function guardStatements({ locks, slots }: Fragments) {
  return {
    // Needs no expiry to be safe: as long as this row lock lasts, no statement that grants the lock gets past it. Finds its
    // row by the key, so that at SERIALIZABLE it conflicts with no other; and may be folded into a statement of the caller's.
    guardOne: statement<Hold>(
      'postgres',
      (p) => sql`
        select expires_at > clock_timestamp() as stands
        from ${locks}
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        for key share`,
    ),

    guardMany: statement<HoldArrays>(
      'postgres',
      (p) => sql`
        select a.i::int, l.expires_at > clock_timestamp() as stands
        from ${locks} as l
        join ${holds(p)} as a(name, owner, token, i)
          on (a.name, a.owner, a.token) = (l.name, l.owner, l.token)
        order by l.name
        for key share of l`,
    ),

    // The same of a shared hold: only whoever wants to take that off finds its slot locked.
    guardShared: statement<SharedHold>(
      'postgres',
      (p) => sql`
        select expires_at > clock_timestamp() as stands
        from ${slots}
        where ${shared(p)}
        for key share`,
    ),

    guardManyShared: statement<SharedArrays>(
      'postgres',
      (p) => sql`
        select a.i::int, l.expires_at > clock_timestamp() as stands
        from ${slots} as l
        join ${sharedHolds(p)} as a(name, slot, owner, token, i)
          on (a.name, a.slot, a.owner, a.token) = (l.name, l.slot, l.owner, l.token)
        order by l.name, l.slot
        for key share of l`,
    ),
  }
}

export function guard<Tx>(context: Context<Tx>): Pick<Required<Store<Tx>>, 'guard' | 'query' | 'guardedQuery'> {
  const { adapter, runner } = context
  const statements = compiled(context, guardStatements)
  const prepared = preparedNames()

  const guardOne = (hold: Hold) => (isShared(hold) ? statements().guardShared(hold) : statements().guardOne(hold))

  function guardAll(tx: Tx, asked: readonly Hold[]): GuardResult[] | Promise<GuardResult[]> {
    const [hold] = asked
    if (asked.length === 1 && hold !== undefined) {
      return runner.runIn(tx, guardOne(hold), ({ rows: [row] }) => [toGuardResult(row)])
    }
    const query = areShared(asked)
      ? statements().guardManyShared(sharedArraysOf(asked))
      : statements().guardMany(arraysOf(asked))
    return runner.runIn(tx, query, ({ rows }) => inOrder(rows, asked.length).map(toGuardResult))
  }

  return {
    guard(tx, asked) {
      const areAlike = asked.every((hold) => isShared(hold) === isShared(asked[0]!))
      if (areAlike) return guardAll(tx, asked)
      const guardSome = async (some: readonly Hold[]) => guardAll(tx, some)
      return ofEachKind(asked, isShared, guardSome, guardSome)
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },

    async guardedQuery(tx, hold, query) {
      const folded = prepared(foldGuard(guardOne(hold), query), query)
      try {
        return (await adapter.queryIn(tx, folded)).rows
      } catch (error) {
        // What an adapter says itself is about the transaction.
        if (error instanceof LockError) throw error
        if (isFailedCast(error, GUARD_FAILED)) {
          throw new LockLostError(hold.name, 'the statement was undone, and its transaction can only roll back', {
            cause: error,
          })
        }
        // What is wrong with the caller's own statement is for the caller: through unchanged. 40001 may be the guard's.
        const code = sqlState(error)
        const isOurs = code === undefined || code === '25P02' || code === '40001'
        throw isOurs ? explain(error, true, context.fragments.table) : error
      }
    },
  }
}

function toGuardResult(row: Row | undefined): GuardResult {
  if (row === undefined) return 'lost'
  return toBoolean(row.stands) ? 'stands' : 'expired'
}

const GUARD_FAILED = 'rowlock: the lease is lost'

/** Whether the server quotes this text. Knex puts the statement before the message, where the text is a literal. */
function isFailedCast(error: unknown, text: string): boolean {
  if (sqlState(error) !== '22P02') return false
  const { message } = error as Error
  return message.lastIndexOf(text) > message.lastIndexOf(`'${text}'`) + 1
}

type FoldedQuery = CallerQuery & { readonly returnsRows: boolean }

/**
 * The caller's statement as a CTE beside the guard, which comes first. If the guard finds no row, a cast fails and takes the whole
 * statement with it; a clock in it keeps the planner from working it out beforehand.
 */
function foldGuard(guard: Pick<Statement, 'text' | 'values'>, query: CallerQuery): FoldedQuery {
  const text = query.text.trim().replace(/;$/, '')
  const bare = text.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"|--.*$|\/\*[\s\S]*?\*\//gm, ' ').trim()
  if (/^with\b/i.test(bare)) {
    throw new LockError('INVALID_ARGUMENT', 'guarded() takes a statement without WITH: call guard(tx) before that one')
  }
  const shifted = guard.text.replace(/\$(\d+)/g, (_, index: string) => `$${Number(index) + query.values.length}`)
  const returnsRows = /^(\(|(select|values|table)\b)/i.test(bare) || /\breturning\b/i.test(bare)
  return {
    text: `with rowlock_query as (${text}
      )
      select ${returnsRows ? 'rowlock_query.* from rowlock_query where true' : '1 where false'} = coalesce(
        (select true from (${shifted}) as rowlock_row),
        ('${GUARD_FAILED}' || left(clock_timestamp()::text, 0))::boolean)`,
    values: [...query.values, ...guard.values],
    returnsRows,
  }
}

/** Texts of callers that are prepared; each takes room in every session of the server. */
const MOST_NAMES = 100

/**
 * The same text gets the same name, so that it need not be planned again. But callers may send any number of texts; and what
 * is prepared keeps the types of its values and of its rows, with which it fails after those of a table have changed.
 */
function preparedNames(): (folded: FoldedQuery, query: CallerQuery) => Statement {
  const names = new Map<string, string>()
  return ({ returnsRows, ...folded }, { values }) => {
    if (returnsRows || values.length > 0) return { ...folded, callers: true }
    let name = names.get(folded.text)
    if (name === undefined) {
      if (names.size === MOST_NAMES) return { ...folded, callers: true }
      name = statementName(folded.text)
      names.set(folded.text, name)
    }
    return { ...folded, name, callers: true }
  }
}

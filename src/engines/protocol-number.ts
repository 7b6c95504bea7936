import type { Result, SqlEngine, Statement } from '../adapters/adapter.ts'
import { DatabaseError, LockError } from '../base/errors.ts'
import type { Assessment } from '../protocol/store.ts'
import { type Naming, tableName } from './migrations.ts'

/** How these tables are to be read and written. A migration that changes that writes another number beside it. */
const KNOWN = 1

/**
 * A version of rowlock that does not know how newer tables are used would break their promises, so it refuses. Tables that are
 * missing are for the first statement to tell of.
 */
export async function withProtocol(
  assessment: Assessment,
  engine: SqlEngine,
  naming: Naming,
  run: (statement: Statement) => Promise<Pick<Result, 'rows'>>,
): Promise<Assessment> {
  if (assessment.refusal !== null) return assessment
  const history = tableName(engine, 'migrations', naming)
  try {
    const { rows } = await run({ text: `select name from ${history} where name like 'protocol %'`, values: [] })
    const newest = Math.max(0, ...rows.map(({ name }) => Number(`${name}`.slice('protocol '.length))))
    return newest > KNOWN ? { ...assessment, refusal: unknownProtocol(newest) } : assessment
  } catch (error) {
    if (error instanceof LockError && error.code === 'NOT_MIGRATED') return assessment
    if (!(error instanceof DatabaseError) || error.failure !== 'other') throw error
    const warning = `rowlock cannot tell whether its tables were migrated for a newer version: grant this user SELECT on ${history}`
    return { ...assessment, warnings: [...assessment.warnings, warning] }
  }
}

function unknownProtocol(number: number): LockError {
  return new LockError(
    'UNSUPPORTED',
    `the tables of locks were migrated by a newer version of rowlock (their protocol is number ${number}, and this version knows ${KNOWN}): update rowlock`,
  )
}

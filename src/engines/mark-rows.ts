import { toNumber } from '../adapters/shape.ts'
import type { MarkKind, ReadMarks } from '../protocol/marks.ts'

/** Rows of marks as PostgreSQL and SQLite give them, with the time; one without a mark if there is none. */
export function toReadMarks(rows: readonly Record<string, unknown>[]): ReadMarks {
  const found = rows.filter(({ kind }) => kind !== null)
  return {
    now: toNumber(rows[0]?.now),
    marks: found.map(({ kind, name, part, value, token }) => ({
      kind: kind as MarkKind,
      name: name as string,
      part: part as string,
      value: value as string | null,
      token: BigInt(token as string),
    })),
  }
}

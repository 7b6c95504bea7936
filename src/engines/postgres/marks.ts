import { type RawBuilder, sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { toBoolean } from '../../adapters/shape.ts'
import type { MarkKey, MarkKind, MarkStore, NewMark } from '../../protocol/marks.ts'
import type { Hold } from '../../protocol/store.ts'
import { toReadMarks } from '../mark-rows.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { durable, type Fragments, unseen } from './fragments.ts'
import { array } from './rows.ts'

type Under = Omit<NewMark, 'name'> & Hold

export function markStatements({ marks, locks }: Fragments) {
  type Values = { [Key in keyof NewMark]: RawBuilder<NewMark[Key]> }
  const columns = sql`(kind, name, part, value, token, written_at, expires_at)`
  const values = (p: Values) => sql`
          ${p.kind}::text, ${p.name}::text, ${p.part}::text, ${p.value}::text, ${p.token}::bigint,
          clock_timestamp(), clock_timestamp() + ${p.keepMs}::float8 * interval '1 ms'`
  const replaced = sql`
          on conflict (kind, name, part) do update
          set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at`
  const isPast = sql`m.expires_at <= clock_timestamp()`
  const read = sql`(extract(epoch from clock_timestamp()) * 1000)::float8 as now, m.kind, m.name, m.part, m.value, m.token::text as token`
  const isUnder = (p: { [Key in keyof Hold]-?: RawBuilder<unknown> }) =>
    sql`l.name = ${p.name}::text and l.owner = ${p.owner}::text and l.token = ${p.token}::bigint and l.expires_at > clock_timestamp()`

  return {
    // One row at least, for the clock.
    readMarksOf: statement<{ kind: string; name: string }>(
      'postgres',
      (p) => sql`
        select ${read}
        from (select) as one
        left join ${marks} as m
          on m.kind = ${p.kind}::text and m.name = ${p.name}::text and (${isPast}) is not true`,
    ),

    readMarks: statement<{ kind: string; names: string }>(
      'postgres',
      (p) => sql`
        select ${read}
        from unnest(${unseen(p.names)}::text[]) as a(name)
        left join ${marks} as m on m.kind = ${p.kind}::text and m.name = a.name and (${isPast}) is not true`,
    ),

    writeMarkUnder: statement<Under>(
      'postgres',
      (p) => sql`
        with held as materialized (
          select from ${locks} as l where ${isUnder(p)} for key share skip locked
        ), written as (
          insert into ${marks} as m ${columns}
          select ${values(p)}
          from held ${replaced}
          where m.token <= excluded.token
          returning 1
        )
        select exists (select from written) as written, exists (select from ${locks} as l where ${isUnder(p)}) as ours, ${durable}`,
    ),

    writeMark: statement<NewMark>(
      'postgres',
      (p) => sql`
        insert into ${marks} as m ${columns} values (${values(p)}) ${replaced}
          where m.token <= excluded.token`,
    ),

    deleteMark: statement<MarkKey & { token: bigint }>(
      'postgres',
      (p) => sql`
        delete from ${marks}
        where kind = ${p.kind}::text and name = ${p.name}::text and part = ${p.part}::text and token <= ${p.token}::bigint`,
    ),

    beginMark: statement<NewMark>(
      'postgres',
      (p) => sql`
        insert into ${marks} as m ${columns} values (${values(p)}) ${replaced}
          where ${isPast}
        returning 1 as begun`,
    ),

    writeMarkIn: statement<NewMark>(
      'postgres',
      (p) => sql`
        insert into ${marks} as m ${columns} values (${values(p)}) ${replaced}`,
    ),
  }
}

export function marks<Tx>(context: Context<Tx>): MarkStore<Tx> {
  const { runner } = context
  const statements = compiled(context, markStatements)
  const send = (query: Statement, beside?: boolean) => (beside ? runner.keep(query) : runner.run(query))
  const readIn = (tx: Tx, { kind, name, part }: MarkKey) =>
    runner.runIn(tx, statements().readMarksOf({ kind, name }), ({ rows }) =>
      toReadMarks(rows).marks.find((mark) => mark.part === part),
    )
  return {
    async readMarks(kind: MarkKind, names, beside) {
      const [name] = names
      const query =
        names.length === 1 && name !== undefined
          ? statements().readMarksOf({ kind, name })
          : statements().readMarks({ kind, names: array(names) })
      return toReadMarks((await send(query, beside)).rows)
    },

    async writeMarkUnder({ name, owner }, mark) {
      const { rows } = await runner.run(statements().writeMarkUnder({ ...mark, name, owner }))
      if (toBoolean(rows[0]?.written)) return 'written'
      return toBoolean(rows[0]?.ours) ? 'locked' : 'lost'
    },

    async writeMark(mark, beside) {
      await send(statements().writeMark(mark), beside)
    },

    async deleteMark(mark) {
      await runner.keep(statements().deleteMark(mark))
    },

    async beginMarkIn(tx, mark) {
      // One that runs out between the two statements is begun the next time.
      for (;;) {
        const begun = await runner.runIn(tx, statements().beginMark(mark), ({ rows }) => rows.length === 1)
        if (begun) return undefined
        const found = await readIn(tx, mark)
        if (found !== undefined) return found
      }
    },

    async writeMarkIn(tx, mark) {
      await runner.runIn(tx, statements().writeMarkIn(mark), () => undefined)
    },

    async deleteMarkIn(tx, mark) {
      await runner.runIn(tx, statements().deleteMark(mark), () => undefined)
    },
  }
}

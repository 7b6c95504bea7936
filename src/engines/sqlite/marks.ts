import { type RawBuilder, sql } from 'kysely'
import type { MarkKey, MarkStore, NewMark } from '../../protocol/marks.ts'
import type { Hold } from '../../protocol/store.ts'
import { toReadMarks } from '../mark-rows.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'

/** JSON and drivers have no bigint that all of them take. */
type Asked = Omit<NewMark, 'token'> & { readonly token: string }

export function markStatements({ marks, locks }: Fragments) {
  type Values = { [Key in keyof Asked]: RawBuilder<Asked[Key]> }
  const columns = sql`(kind, name, part, value, token, written_at, expires_at)`
  const values = (p: Values) => sql`
          ${p.kind}, ${p.name}, ${p.part}, ${p.value}, cast(${p.token} as integer), ${now}, ${now} + cast(${p.keepMs} as integer)`
  const replaced = sql`
        on conflict (kind, name, part) do update
        set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at`

  return {
    // One row at least, for the clock.
    readMarks: statement<{ kind: string; names: string }>(
      engine,
      (p) => sql`
        select ${now} as now, m.kind, m.name, m.part, m.value, cast(m.token as text) as token
        from (select 1) as one
        left join ${marks} as m
          on m.kind = ${p.kind} and m.name in (select value from json_each(${p.names}))
          and (m.expires_at is null or m.expires_at > ${now})`,
    ),

    writeMarkUnder: statement<Asked & Pick<Hold, 'owner'>>(
      engine,
      (p) => sql`
        insert into ${marks} as m ${columns}
        select ${values(p)}
        from ${locks} as l
        where l.name = ${p.name} and l.owner = ${p.owner} and l.token = cast(${p.token} as integer) and l.expires_at > ${now}
        ${replaced}
        where m.token <= excluded.token
        returning 1 as written`,
    ),

    writeMark: statement<Asked>(
      engine,
      (p) => sql`
        insert into ${marks} as m ${columns} values (${values(p)}) ${replaced}
        where m.token <= excluded.token`,
    ),

    deleteMark: statement<MarkKey & { token: string }>(
      engine,
      (p) => sql`
        delete from ${marks}
        where kind = ${p.kind} and name = ${p.name} and part = ${p.part} and token <= cast(${p.token} as integer)`,
    ),

    beginMark: statement<Asked>(
      engine,
      (p) => sql`
        insert into ${marks} as m ${columns} values (${values(p)}) ${replaced}
        where m.expires_at <= ${now}
        returning 1 as begun`,
    ),

    writeMarkIn: statement<Asked>(
      engine,
      (p) => sql`
        insert into ${marks} as m ${columns} values (${values(p)}) ${replaced}`,
    ),

    purgeMarks: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        delete from ${marks}
        where expires_at <= ${now}
           or kind = 'checkpoint' and written_at <= ${now} - ${p.idleMs}
              and not exists (select 1 from ${locks} as l where l.name = ${marks}.name)`,
    ),
  }
}

export function marks<Tx>({ runner, fragments, file }: Context<Tx>): MarkStore<Tx> {
  const statements = markStatements(fragments)
  const namesOf = (names: readonly string[]) => JSON.stringify(names)
  return {
    async readMarks(kind, names) {
      await file.assertSame()
      return toReadMarks((await runner.run(statements.readMarks({ kind, names: namesOf(names) }))).rows)
    },

    // There is one writer at a time, so nothing is ever locked for a moment; a busy file is an error, and asked again.
    async writeMarkUnder({ owner }, mark) {
      await file.assertSame()
      const { rows } = await runner.run(statements.writeMarkUnder({ ...toAsked(mark), owner }))
      return rows.length === 1 ? 'written' : 'lost'
    },

    async writeMark(mark) {
      await file.assertSame()
      await runner.run(statements.writeMark(toAsked(mark)))
    },

    async deleteMark({ token, ...key }) {
      await runner.run(statements.deleteMark({ ...key, token: `${token}` }))
    },

    async beginMarkIn(tx, mark) {
      const begun = await runner.runIn(tx, statements.beginMark(toAsked(mark)), ({ rows }) => rows.length === 1)
      if (begun) return undefined
      const { kind, name, part } = mark
      return runner.runIn(tx, statements.readMarks({ kind, names: namesOf([name]) }), ({ rows }) =>
        toReadMarks(rows).marks.find((found) => found.part === part),
      )
    },

    async writeMarkIn(tx, mark) {
      await runner.runIn(tx, statements.writeMarkIn(toAsked(mark)), () => undefined)
    },

    async deleteMarkIn(tx, { token, ...key }) {
      await runner.runIn(tx, statements.deleteMark({ ...key, token: `${token}` }), () => undefined)
    },
  }
}

/** Of what is past its time, and of checkpoints whose lock is not known any more. */
export function markPurger({ runner, fragments }: Pick<Context<never>, 'runner' | 'fragments'>) {
  const statements = markStatements(fragments)
  return async (idleMs: number): Promise<void> => {
    await runner.run(statements.purgeMarks({ idleMs }))
  }
}

function toAsked({ token, ...mark }: NewMark): Asked {
  return { ...mark, token: `${token}` }
}

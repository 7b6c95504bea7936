import { sql } from 'kysely'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'
import { byName, toJson } from './rows.ts'

export function guardStatements({ locks }: Fragments) {
  return {
    // A write, so that a deferred transaction, too, has the file's write lock from here to its end.
    guard: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = l.expires_at
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning name`,
    ),
  }
}

export function guard<Tx>({ adapter, runner, fragments, file }: Context<Tx>): Pick<Store<Tx>, 'guard' | 'query'> {
  const statements = guardStatements(fragments)
  return {
    guard(tx, holds) {
      if (file.isAnother() !== null) return holds.map(() => 'lost')
      return runner.runIn(tx, statements.guard({ holds: toJson(holds) }), ({ rows }) => {
        const standing = byName(rows)
        return holds.map(({ name }) => (standing.has(name) ? 'stands' : 'lost'))
      })
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },
  }
}

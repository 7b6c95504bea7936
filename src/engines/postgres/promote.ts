import { sql } from 'kysely'
import type { Promotion, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { type Fragments, unseen } from './fragments.ts'
import { array, inOrder, toGrants } from './rows.ts'

export function promoteStatements({ named }: Fragments) {
  return {
    promote: statement<{ names: string; process: string }>(
      'postgres',
      (p) => sql`
        select a.i::int, r.outcome, r.grants::text
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i),
             lateral ${named('promote_1')}(a.name, ${p.process}::text) as r`,
    ),
  }
}

export function promote(context: Context<never>): Store<never>['promote'] {
  const { runner } = context
  const statements = compiled(context, promoteStatements)
  return async (names, process) => {
    const { rows } = await runner.keep(statements().promote({ names: array(names), process }))
    return inOrder(rows, names.length).map((row, index): Promotion => {
      return { outcome: row!.outcome as Promotion['outcome'], grants: toGrants(names[index]!, row!.grants) }
    })
  }
}

import { expect, it } from 'vitest'
import { judge, Sandbox } from './mutant.ts'
import { MUTANTS, QUICK } from './mutants.ts'

const PATIENCE_MS = 300_000

it('every mutant can be made', async () => {
  const sandbox = await Sandbox.create()
  for (const mutant of MUTANTS) await sandbox.check(mutant)
  await sandbox.remove()
})

it('the tests notice when a store is weakened', { timeout: PATIENCE_MS }, async () => {
  const survivors: string[] = []
  await judge(QUICK, ({ name }, verdict) => {
    if (!verdict.killed) survivors.push(`${name}: ${verdict.why}`)
  })
  expect(survivors).toEqual([])
})

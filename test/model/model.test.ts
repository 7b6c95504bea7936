import { beforeAll, describe, expect, it } from 'vitest'
import { BOUNDED, MUTANTS } from './checks.ts'
import { installSpin, verify } from './spin.ts'

const PATIENCE_MS = 120_000

describe('the model of the lock', { timeout: PATIENCE_MS }, () => {
  beforeAll(installSpin, PATIENCE_MS)

  it.each(BOUNDED)('holds: $name', async (check) => {
    expect(await verify(check, '-O0')).toMatchObject({ violation: null, complete: true })
  })

  it.each(MUTANTS)('catches it if $name', async (mutant) => {
    expect((await verify(mutant, '-O0')).violation).toMatch(mutant.violates)
  })
})
